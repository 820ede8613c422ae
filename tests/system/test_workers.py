"""Worker processes: a job in, reports and a result out; every way to end has its error."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from clipfs import errors
from clipfs.system.fork_server import fork_server
from clipfs.system.workers import OnQuestion, no_answer, started
from tests.support.node import alive
from tests.support.processes import descendants, short_name
from tests.support.wait import wait_for

WORKER = "tests.system.odd_worker"
REPOSITORY = Path(__file__).parents[2]

PARENT = """
import trio
from clipfs.system.workers import started

async def main():
    async with started(%r, memory_bytes=1 << 30) as worker:
        await worker.run(b"waits", on_line=lambda line: print(line.decode(), flush=True))

trio.run(main)
"""


@pytest.fixture(autouse=True, params=["executed", "forked"])
def _way(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """How workers come to be; started in a folder that has modules of the names of theirs."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for name in ("msgspec", "threading", "clipfs"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with fork_server([WORKER]) if request.param == "forked" else nullcontext():
        yield


async def run(
    job: bytes, lines: list[bytes] | None = None, *, on_question: OnQuestion = no_answer
) -> bytes:
    seen: list[bytes] = [] if lines is None else lines
    async with started(WORKER, memory_bytes=1 << 30) as worker:
        return await worker.run(job, on_line=seen.append, on_question=on_question)


def workers() -> list[int]:
    """Those that this process has now."""
    return [pid for pid in descendants("self") if short_name(pid) == WORKER[:15]]


async def test_a_job_goes_in_and_its_result_comes_out() -> None:
    assert await run(b"job") == b"JOB"
    assert await run(b"large result") == bytes(range(256)) * 40_000
    assert await run(b"x" * 5_000_000) == b"X" * 5_000_000


async def test_report_lines_come_in_order_before_the_result() -> None:
    lines: list[bytes] = []
    assert await run(b"reports", lines) == b"REPORTS"
    assert [json.loads(line) for line in lines] == [{"number": number} for number in range(3)]


@pytest.mark.parametrize(
    ("job", "kind", "words"),
    [
        pytest.param(b"clip error", errors.UnsupportedImage, "says\nin two", id="its-own-error"),
        pytest.param(b"os error", errors.NodeFault, "nonexistent", id="os-error"),
        pytest.param(b"too much memory", errors.CorruptImage, "more memory", id="over-its-memory"),
        pytest.param(b"bug", errors.NodeFault, "exit code 1", id="bug"),
        pytest.param(b"killed", errors.NodeFault, "SIGKILL", id="killed"),
        pytest.param(b"cut short", errors.NodeFault, "exit code 0", id="result-cut-short"),
    ],
)
async def test_a_worker_that_fails_says_why(
    job: bytes, kind: type[errors.ClipError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await run(job)


async def test_a_worker_s_bug_is_a_line_of_its_parent_with_the_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with capture_logs() as lines, pytest.raises(errors.NodeFault, match="exit code 1"):
        await run(b"bug")
    (line,) = lines
    assert (line["log_level"], line["worker"]) == ("error", WORKER)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].rstrip().endswith("RuntimeError: planted")
    assert "Traceback" not in capfd.readouterr().err, "nothing beside the log"


async def test_a_worker_s_questions_are_answered_one_by_one() -> None:
    async def on_question(question: bytes) -> bytes:
        return b"<" + question + b">"

    assert await run(b"asks", on_question=on_question) == b'<{"number":1}><{"number":2}>'


async def test_reports_come_in_while_an_answer_is_awaited() -> None:
    reported = trio.Event()

    async def on_question(_: bytes) -> bytes:
        await reported.wait()
        return b""

    async with started(WORKER, memory_bytes=1 << 30) as worker:
        await worker.run(b"asks beside", on_line=lambda _: reported.set(), on_question=on_question)


async def test_a_question_without_an_answer_ends_the_worker_with_its_error() -> None:
    async def on_question(_: bytes) -> bytes:
        raise errors.AccessDenied("no more")

    with pytest.raises(errors.AccessDenied, match="no more"):
        await run(b"asks", on_question=on_question)
    with pytest.raises(errors.NodeFault, match="nobody answers"):
        await run(b"asks")


async def test_cancellation_kills_the_worker_and_waits_for_its_end() -> None:
    pids: list[int] = []
    with trio.CancelScope() as scope:

        def on_line(line: bytes) -> None:
            pids.append(json.loads(line)["pid"])
            scope.cancel()

        async with started(WORKER, memory_bytes=1 << 30) as worker:
            await worker.run(b"waits", on_line=on_line)
    assert scope.cancelled_caught
    assert len(pids) == 1
    assert not alive(pids[0])


async def test_a_worker_that_never_gets_a_job_ends_with_its_block() -> None:
    async with started(WORKER, memory_bytes=1 << 30):
        (child,) = await trio.to_thread.run_sync(wait_for, workers)
        assert os.getpgid(child) == child  # Ctrl-C in a terminal is not for it
    assert not alive(child)


def test_a_worker_whose_parent_dies_before_the_job_says_nothing() -> None:
    command = [sys.executable, "-P", "-m", WORKER, str(1 << 30)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


async def test_a_worker_that_died_before_its_job_says_so() -> None:
    async with started(WORKER, memory_bytes=1 << 30) as worker:
        (child,) = await trio.to_thread.run_sync(wait_for, workers)
        os.kill(child, signal.SIGKILL)
        with pytest.raises(errors.NodeFault, match="SIGKILL"):
            await worker.run(b"job", on_line=lambda _: None)


def test_a_worker_ends_with_its_parent_however_that_dies() -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT % WORKER], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = json.loads(parent.stdout.readline())["pid"]
        assert alive(worker)
        parent.kill()
    wait_for(lambda: not alive(worker))


async def test_a_worker_loads_no_code_from_the_working_directory(tmp_path: Path) -> None:
    assert await run(b"working directory") == os.fsencode(tmp_path)


async def test_a_worker_s_environment_holds_nothing_that_it_does_not_need() -> None:
    assert b"AWS_SECRET_ACCESS_KEY" not in await run(b"environment")
