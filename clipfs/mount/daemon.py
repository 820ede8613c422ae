"""Leaves a server behind: fork, detach, serve; the caller returns once the tree is readable.

The fork stands between two runs of trio, when the process has one thread, so that a mount
pays for one interpreter start only. The child holds none of the caller's descriptors.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from clipfs import errors
from clipfs.log import log
from clipfs.system.processes import start_time

KEPT_LOGS = 20
"""Of servers that have ended: why the last ones did is what people ask."""


class _Report(msgspec.Struct, frozen=True):
    """What the child says once: ready, or why not."""

    code: str | None = None
    message: str = ""


def leave_behind(serve: Callable[[Callable[[], None]], None], *, log_folder: Path | None) -> int:
    """Run serve(on_ready) in a process of its own; its pid once it called on_ready.

    serve       returns when the server's work is done; a ClipError before on_ready is raised
                here, in the caller
    log_folder  the child logs to `<pid>.log` there; None: to the caller's stderr
    Raises      NodeFault if the child ends without a word
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(serve, writing, log_folder)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            said = pipe.read()
    except BaseException:  # interrupted: nobody hears that the mount is ready, so it is undone
        os.waitpid(pid, 0)
        raise
    if not said:
        _, status = os.waitpid(pid, 0)
        raise errors.NodeFault(
            f"the server ended before its mount was ready (wait status {status}); see its log"
            + (f", {log_folder / f'{pid}.log'}" if log_folder else "")
        )
    report = msgspec.json.decode(said, type=_Report)
    if report.code is not None:
        os.waitpid(pid, 0)
        raise errors.error_of_code(report.code, report.message)
    return pid


def _child(
    serve: Callable[[Callable[[], None]], None], writing: int, log_folder: Path | None
) -> None:
    """Never returns: the child's stack must not unwind into the caller's."""
    code = 1
    try:
        os.setsid()
        pending = [writing]

        def say(report: _Report) -> None:
            while pending:
                fd = pending.pop()
                os.write(fd, msgspec.json.encode(report))
                os.close(fd)

        try:
            _detach(writing, log_folder)
            serve(lambda: say(_Report()))
            code = 0
        except BaseException as error:
            named = errors.node_fault(error) if errors.is_the_disks(error) else error
            if isinstance(named, errors.ClipError):
                log.error("server failed", error=str(named), code=named.code)
                say(_Report(code=named.code, message=str(named)))
            else:
                log.exception("server failed")
                say(_Report(code=errors.ClipError.code, message=repr(error)))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _detach(keep: int, log_folder: Path | None) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    if log_folder is not None:
        log_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        forget_old_logs(log_folder)
        path = log_folder / f"{os.getpid()}.log"
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")


def forget_old_logs(log_folder: Path) -> None:
    """Forget the oldest logs of servers that have ended, but for the last KEPT_LOGS.

    Others may do so at the same moment. What cannot be forgotten stays: no mount fails of it.
    """
    ended: list[tuple[int, Path]] = []
    for path in log_folder.glob("*.log"):
        if path.stem.isdecimal() and start_time(int(path.stem)) is None:
            with suppress(OSError):
                ended.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(ended)[:-KEPT_LOGS]:
        with suppress(OSError):
            path.unlink()
