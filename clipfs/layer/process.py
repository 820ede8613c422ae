"""Runs one of our modules as a worker process: a job in, report lines out, a result at the end.

What needs the CPU for long or parses other people's bytes runs there: with a memory limit of
its own, without credentials in arguments or environment, and never longer than its parent.

Protocol: the job is one line on the worker's stdin, which stays open: its end tells the worker
that the parent is gone (PR_SET_PDEATHSIG would tell of the end of trio's spawning thread).
Its stdout is report lines, then the line `{"done": N}` and N bytes of result; or the line
`{"error": {"code", "message"}}`.

Not here: the worker's side (`clipfs.layer.child`); what the jobs are (`clipfs.layer.worker`,
`clipfs.tree.build`).
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

import msgspec
import trio

from clipfs import errors

_PIECE_BYTES = 1 << 16
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHOME", "SSL_CERT_FILE", "TMPDIR")


class _Error(msgspec.Struct, frozen=True):
    code: str
    message: str


class _Last(msgspec.Struct, frozen=True):
    """The line that ends the report lines."""

    done: int | None = None
    error: _Error | None = None


async def run_worker(
    module: str,
    job: bytes,
    *,
    on_line: Callable[[bytes], None],
    memory_bytes: int,
    pass_fds: Sequence[int] = (),
) -> bytes:
    """Run `python -m module` to its end; the bytes of its result.

    job           one line, without its newline; what is large goes through pass_fds
    on_line       gets each report line, without its newline
    memory_bytes  address space limit of the worker
    Raises        the ClipError that the worker reported; NodeFault if it died without one
    Cancellation  kills the worker and waits for its end
    """
    # -P: a module that lies in the caller's working directory is not ours
    command = [sys.executable, "-P", "-m", module, str(memory_bytes)]
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=tuple(pass_fds),
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    )
    try:
        assert process.stdin is not None
        with contextlib.suppress(trio.BrokenResourceError):  # its status says what it died of
            await process.stdin.send_all(job + b"\n")
        return await _outcome(process, module, on_line)
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()


async def _outcome(process: trio.Process, module: str, on_line: Callable[[bytes], None]) -> bytes:
    assert process.stdout is not None
    unread = bytearray()
    async for piece in process.stdout:
        unread += piece
        while (end := unread.find(b"\n")) >= 0:
            line = bytes(unread[:end])
            del unread[: end + 1]
            if not line.startswith((b'{"done"', b'{"error"')):
                on_line(line)
                continue
            last = msgspec.json.decode(line, type=_Last)
            if last.error is not None:
                raise errors.error_of_code(last.error.code, last.error.message)
            assert last.done is not None
            return await _result(process, module, unread, last.done)
    raise await _death(process, module)


async def _result(process: trio.Process, module: str, begun: bytearray, size: int) -> bytes:
    assert process.stdout is not None
    while len(begun) < size:
        piece = await process.stdout.receive_some(_PIECE_BYTES)
        if not piece:
            raise await _death(process, module)
        begun += piece
    await process.wait()
    return bytes(begun[:size])


async def _death(process: trio.Process, module: str) -> errors.NodeFault:
    status = await process.wait()
    why = f"exit code {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
    return errors.NodeFault(f"the worker {module} died without a word: {why}; see the node's log")
