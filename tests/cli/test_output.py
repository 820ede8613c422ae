"""What commands print, and what a terminal is spared."""

import io
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipfs import errors
from clipfs.cli.main import ended
from clipfs.cli.output import printable
from clipfs.cli.sizes import human_bytes
from tests.support.machine import CLIPFS


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1536, "1.5 kB"), (9_940, "9.9 kB"),
     (9_960, "10 kB"), (999_499, "999 kB"), (999_500, "1 MB"), (5e12, "5 TB"), (5e15, "5000 TB")],
)  # fmt: skip  # a table
def test_sizes_are_for_people(count: float, words: str) -> None:
    assert human_bytes(count) == words


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_name_can_steer_a_terminal(name: bytes) -> None:
    shown = printable(name.decode("utf-8", "surrogateescape"))
    assert shown.isprintable()
    shown.encode()  # no surrogate is left either


def test_what_can_be_shown_is_shown_as_it_is() -> None:
    assert printable("Grüße, 世界 a b") == "Grüße, 世界 a b"
    assert printable("a\x1b[31m\n\u202e\udcff") == r"a\x1b[31m\n\u202e\udcff"


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        pytest.param(errors.CorruptImage("a\x1b[2Jb"), 1, r"p: a\x1b[2Jb", id="clip-error"),
        pytest.param(KeyboardInterrupt(), 1, "p: interrupted", id="interrupted"),
        pytest.param(ValueError("x"), 1, "p: internal error: ValueError('x')", id="bug"),
        pytest.param(click.UsageError("wrong"), 2, "wrong", id="usage"),
    ],
)
def test_every_end_has_its_exit_code_and_one_line(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    assert ended(lambda: fail(error), [], program="p") == code
    assert stderr.getvalue().rstrip().endswith(said)


def test_a_broken_pipe_is_a_failure_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda: fail(BrokenPipeError()), ["--json"], program="p") == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_stdout_that_is_full_is_one_line_and_a_failure(words: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [CLIPFS, "stats", "--root", str(tmp_path), *words],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip # one thought
    assert done.returncode == 1
    assert done.stderr.startswith("clipfs: No space left on device")
    assert done.stderr.count("\n") == 1


LOGGING = """
import sys
from clipfs.cli import logs
from clipfs.log import log
logs.configure("text", "warning")
log.info("unheard", of="it")
assert "structlog" not in sys.modules
logs.configure("json", "info")
log.info("heard", path="a\x1b[2Jb")
"""


def test_a_log_is_set_up_anew_after_its_first_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOGGING], capture_output=True, text=True, check=True
    )
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["event"] == "heard"


OTHERS = """
import logging, sys, threading
from clipfs.cli import logs
from clipfs.log import log
logs.configure("json", "info")
logs.hear_others()
logs.add_fields({"volume": "v", "code": "all"})
def fail():
    raise ValueError("two\\nlines")
logging.getLogger("grpc._server").warning("of a %s", "library")
logging.getLogger("httpx").info("nobody asked")
try:
    fail()
except ValueError:
    logging.getLogger("grpc._server").exception("of a library's bug")
    log.exception("of a bug", code="own")
thread = threading.Thread(target=fail, name="t")
thread.start()
thread.join()
"""


def test_what_libraries_log_and_what_ends_a_thread_are_lines_like_all_others() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHERS], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line["level"], line["code"]) for line in lines] == [
        ("of a library", "warning", "all"),
        ("of a library's bug", "error", "all"),
        ("of a bug", "error", "own"),
        ("a thread has ended, this is a bug", "error", "all"),
    ]
    assert {line["volume"] for line in lines} == {"v"}
    for line in lines[1:]:
        assert line["exception"].endswith("ValueError: two\nlines")
        assert "Traceback" in line["exception"]
