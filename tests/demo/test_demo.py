"""The demo as a user runs it: as promised, and nothing left however it ends."""

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import demo
from demo.__main__ import main
from demo.stage import MARK
from tests.support.machine import needs_fuse
from tests.support.processes import children
from tests.support.wait import wait_for

pytestmark = [
    needs_fuse,
    pytest.mark.timeout(600),
]

HOME = Path(demo.__file__).parent


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m demo`, what it says in `out` and `err` below tmp_path."""
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "demo"], cwd=HOME.parent, stdout=out, stderr=err
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def test_the_demo_shows_what_it_promises_and_leaves_nothing(
    running: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    folder = stage_of(running.pid)
    code = running.wait(500)
    said = (tmp_path / "out").read_text()
    assert code == 0, said + (tmp_path / "err").read_text()
    for words in ("registry", "content cache", "node disk", "53,248", "usr/", "0 for a layer",
                  "All as promised"):  # fmt: skip
        assert words in said
    assert_nothing_is_left(folder)


@pytest.mark.parametrize(
    ("step", "number"),
    [
        pytest.param("three nodes", signal.SIGINT, id="while the image is built"),
        pytest.param("a real image", signal.SIGINT, id="while node A publishes"),
        pytest.param("node B: publish", signal.SIGTERM, id="while a program runs on node B"),
    ],
)
def test_a_demo_that_is_stopped_leaves_nothing(
    step: str, number: signal.Signals, running: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    folder = stage_of(running.pid)
    wait_for(lambda: f"✔ {step}" in (tmp_path / "out").read_text(), within_s=120)
    running.send_signal(number)
    assert running.wait(60) == 128 + number
    err = (tmp_path / "err").read_text()
    assert err == f"demo: stopped by {number.name}; no mount, process or file is left\n"
    assert_nothing_is_left(folder)


def test_a_demo_whose_node_dies_says_so_and_leaves_nothing(
    running: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    folder = stage_of(running.pid)
    wait_for(lambda: "✔ three nodes" in (tmp_path / "out").read_text(), within_s=120)
    for pid in marked(folder):
        if b"node-B" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    assert running.wait(300) == 1
    err = (tmp_path / "err").read_text()
    assert err.startswith("demo: not as promised: NodePublishVolume: ")
    assert_nothing_is_left(folder)


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        pytest.param("os.geteuid", 1000, "must be run as root", id="not root"),
        pytest.param("os.path.exists", False, "no /dev/fuse", id="no FUSE"),
        pytest.param("shutil.which", None, "docker-registry is not installed", id="no registry"),
    ],
)
def test_a_machine_that_cannot_play_it_is_told(
    name: str,
    answer: object,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(name, lambda *_: answer)
    assert main() == 1
    monkeypatch.undo()
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize("path", sorted(HOME.glob("*.py")), ids=lambda path: path.name)
def test_the_demo_imports_nothing_of_the_product_or_the_tests(path: Path) -> None:
    tops = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            tops |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            tops.add((node.module or "").partition(".")[0])
    assert not tops & {"csi", "clipfs", "tests", "bench"}


def stage_of(pid: int) -> Path:
    """The folder of a running demo, by the mark of its first child."""

    def find() -> Path | None:
        for child in children(pid):
            for word in environment(child):
                if word.startswith(f"{MARK}="):
                    return Path(word.partition("=")[2])
        return None

    return wait_for(find, within_s=60)


def environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def marked(folder: Path) -> list[int]:
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return [pid for pid in pids if f"{MARK}={folder}" in environment(pid)]


def assert_nothing_is_left(folder: Path) -> None:
    assert marked(folder) == []
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    assert not folder.exists()
