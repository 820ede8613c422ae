"""How a worker's process comes to be: forked off the fork server where one is open, else executed.

Not here: what is said to it (`clipfs.system.workers`).
"""

import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from clipfs.system.child import ENVIRONMENT
from clipfs.system.fork_server import ForkedProcess, ForkServerGone, open_fork_server


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A process, its stdin and its stdout."""

    stdin: trio.lowlevel.FdStream
    stdout: trio.lowlevel.FdStream
    process: trio.Process | ForkedProcess

    async def wait(self) -> int | None:
        """Its exit code, negative for the signal that killed it; None if nobody can tell."""
        return await self.process.wait()

    async def end(self) -> None:
        """Kill it if it runs, and leave nothing of it."""
        self.process.kill()
        await self.process.wait()
        await self.stdin.aclose()
        await self.stdout.aclose()


async def launched(module: str, *, memory_bytes: int, pass_fds: Sequence[int]) -> WorkerProcess:
    """A new process that will run `work` of module.

    pass_fds  it has these descriptors, under the same numbers
    """
    if (server := open_fork_server()) is not None:
        # what it forked before it died has pipes of its own, and ends with those
        with contextlib.suppress(ForkServerGone):
            return await _piped(server.fork, module, memory_bytes, pass_fds)
    return await _piped(_executed, module, memory_bytes, pass_fds)


async def _piped(
    process_of: Callable[..., Awaitable[trio.Process | ForkedProcess]],
    module: str,
    memory_bytes: int,
    pass_fds: Sequence[int],
) -> WorkerProcess:
    stdin, to_child = os.pipe()
    from_child, stdout = os.pipe()
    try:
        process = await process_of(
            module, memory_bytes=memory_bytes, stdin=stdin, stdout=stdout, pass_fds=pass_fds
        )
    except BaseException:
        os.close(to_child)
        os.close(from_child)
        raise
    finally:
        os.close(stdin)
        os.close(stdout)
    streams = trio.lowlevel.FdStream(to_child), trio.lowlevel.FdStream(from_child)
    return WorkerProcess(*streams, process)


async def _executed(
    module: str, *, memory_bytes: int, stdin: int, stdout: int, pass_fds: Sequence[int]
) -> trio.Process:
    # -P: a module that lies in the caller's working directory is not ours
    return await trio.lowlevel.open_process(
        [sys.executable, "-P", "-m", module, str(memory_bytes)],
        stdin=stdin,
        stdout=stdout,
        pass_fds=tuple(pass_fds),
        process_group=0,  # Ctrl-C is for the parent, which ends it
        env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    )
