"""Runs one of our modules as a worker process: a job in, report lines out, a result at the end.

What needs the CPU for long or parses other people's bytes runs there: with a memory limit of
its own, without credentials in arguments or environment, and never longer than its parent.

Protocol: the job is one line on the worker's stdin, which stays open: its end tells the worker
that the parent is gone (PR_SET_PDEATHSIG would tell of the end of trio's spawning thread).
Its stdout is report lines and questions, `{"ask": question}`, each of which gets a line on its
stdin; then the line `{"done": N}` and N bytes of result, or the line
`{"error": {"code", "message"}}`; or, if it fails by a bug, `{"bug": traceback}` and its end.

Not here: the worker's side (`clipfs.system.child`); what the jobs are (`clipfs.layer.worker`,
`clipfs.tree.worker`).
"""

import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec
import trio

from clipfs import errors
from clipfs.log import log
from clipfs.system.launch import WorkerProcess, launched

_PIECE_BYTES = 1 << 16

OnQuestion = Callable[[bytes], Awaitable[bytes]]


class _Error(msgspec.Struct, frozen=True):
    code: str
    message: str


class _Bug(msgspec.Struct, frozen=True):
    bug: str


class _Question(msgspec.Struct, frozen=True):
    ask: msgspec.Raw


class _Last(msgspec.Struct, frozen=True):
    """The line that ends the report lines."""

    done: int | None = None
    error: _Error | None = None


async def no_answer(question: bytes) -> bytes:
    """For workers that ask nothing."""
    raise errors.NodeFault(f"a worker asks what nobody answers: {question.decode()[:100]}")


class Worker:
    """A worker process that waits for its one job; see `started`."""

    def __init__(self, module: str, process: WorkerProcess) -> None:
        self._module = module
        self._process = process

    async def run(
        self,
        job: bytes,
        *,
        on_line: Callable[[bytes], None],
        on_question: OnQuestion = no_answer,
    ) -> bytes:
        """Give it its job, and wait for its end; the bytes of its result.

        job          one line, without its newline; what is large goes through pass_fds
        on_line      gets each report line, without its newline
        on_question  the answer to a question, both JSON; report lines come in while it waits
        Raises       the ClipError that the worker reported; NodeFault if it died without one;
                     what on_question raises
        """
        with contextlib.suppress(trio.BrokenResourceError):  # its status says what it died of
            await self._process.stdin.send_all(job + b"\n")
        return await _conversation(self._process, self._module, on_line, on_question)


@contextlib.asynccontextmanager
async def started(
    module: str, *, memory_bytes: int, pass_fds: Sequence[int] = ()
) -> AsyncIterator[Worker]:
    """A worker that runs `work` of module; dead after the block.

    Forked where a `fork_server` is open, else `python -m module`, which loads while the block
    does something else.

    memory_bytes  address space that it may take, beyond what it begins with
    """
    process = await launched(module, memory_bytes=memory_bytes, pass_fds=pass_fds)
    try:
        yield Worker(module, process)
    finally:
        with trio.CancelScope(shield=True):
            await process.end()


async def _conversation(
    process: WorkerProcess,
    module: str,
    on_line: Callable[[bytes], None],
    on_question: OnQuestion,
) -> bytes:
    """The outcome; questions are answered beside it. The first error of either is raised."""
    failed: list[Exception] = []  # kept, not raised inside: a nursery raises groups
    result = b""

    async def answer(question: bytes) -> None:
        try:
            line = await on_question(question)
        except Exception as error:
            failed.append(error)
            nursery.cancel_scope.cancel()
            return
        with contextlib.suppress(trio.BrokenResourceError):
            await process.stdin.send_all(line + b"\n")

    async with trio.open_nursery() as nursery:
        try:
            result = await _outcome(
                process, module, on_line, lambda asked: nursery.start_soon(answer, asked)
            )
        except Exception as error:
            failed.append(error)
        nursery.cancel_scope.cancel()
    if failed:
        raise failed[0]
    return result


async def _outcome(
    process: WorkerProcess,
    module: str,
    on_line: Callable[[bytes], None],
    on_question: Callable[[bytes], None],
) -> bytes:
    unread = bytearray()
    async for piece in process.stdout:
        unread += piece
        while (end := unread.find(b"\n")) >= 0:
            line = bytes(unread[:end])
            del unread[: end + 1]
            if line.startswith(b'{"ask"'):
                on_question(bytes(msgspec.json.decode(line, type=_Question).ask))
                continue
            if line.startswith(b'{"bug"'):
                said = msgspec.json.decode(line, type=_Bug)
                log.error("a worker failed, this is a bug", worker=module, exception=said.bug)
                continue
            if not line.startswith((b'{"done"', b'{"error"')):
                on_line(line)
                continue
            last = msgspec.json.decode(line, type=_Last)
            if last.error is not None:
                raise errors.error_of_code(last.error.code, last.error.message)
            assert last.done is not None
            return await _result(process, module, unread, last.done)
    raise await _death(process, module)


async def _result(process: WorkerProcess, module: str, begun: bytearray, size: int) -> bytes:
    while len(begun) < size:
        piece = await process.stdout.receive_some(_PIECE_BYTES)
        if not piece:
            raise await _death(process, module)
        begun += piece
    return bytes(begun[:size])


async def _death(process: WorkerProcess, module: str) -> errors.NodeFault:
    status = await process.wait()
    if status is None:
        why = "nobody heard of what"
    elif status >= 0:
        why = f"exit code {status}"
    else:
        why = f"killed by {signal.Signals(-status).name}"
    return errors.NodeFault(f"the worker {module} died without a word: {why}; see the node's log")
