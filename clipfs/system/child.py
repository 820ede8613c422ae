"""The worker's side of `clipfs.system.workers`, whose docstring has the protocol.

Apart from the parent's side, so that a worker does not load trio: it starts in half the time.
"""

import contextlib
import ctypes
import gc
import os
import queue
import resource
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import msgspec

from clipfs import errors

TOO_LARGE = "needs more memory than a worker gets; if it has millions of files, pack them together"

ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHOME", "SSL_CERT_FILE", "TMPDIR")
"""All that a worker gets of its parent's."""

_MALLOC = {
    -8: 2,  # M_ARENA_MAX
    -3: 4 << 20,  # M_MMAP_THRESHOLD
    -1: 64 << 20,  # M_TRIM_THRESHOLD
}
"""mallopt(3). Few arenas: glibc reserves 64 to 128 MiB of address space a thread, which the limit
is not meant for. Pieces of 1 MiB stay with the process: given back to the kernel each time, they
came again as 256 page faults, a sixth of a pass's system time."""

_SWITCH_S = 0.0005
"""How long a thread that runs Python makes the others wait. Those of a pass hash, inflate and
write without the GIL and want it for a moment only: at the usual 5 ms they would stand still
behind the tar parser."""

Work = Callable[[bytes], Iterable[bytes | bytearray | memoryview]]
"""What a worker module's `work` is: of a job it makes the parts of a result."""

_answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()


def worker_main(work: Work) -> NoReturn:
    """The body of a worker module's `__main__`."""
    spec = sys.modules["__main__"].__spec__
    assert spec is not None  # of `python -m`
    run_job(work, spec.name, memory_bytes=int(sys.argv[1]))


def run_job(work: Work, module: str, memory_bytes: int) -> NoReturn:
    """Limits, job, result: all of a worker's life."""
    name_process(module.removeprefix("clipfs."))
    _tune_malloc()
    most_bytes = _address_space_bytes() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setswitchinterval(_SWITCH_S)
    gc.disable()  # a tree of a million nodes has no garbage, and is looked through again and again
    job, newline, _ = sys.stdin.buffer.readline().partition(b"\n")
    if not newline:
        os._exit(1)  # the parent is gone
    threading.Thread(target=_hear_parent, daemon=True).start()
    try:
        _answer(work, job)
    except BrokenPipeError:  # the parent is gone
        os._exit(1)
    except Exception:
        _say_bug()
        os._exit(1)
    os._exit(0)  # threads of the pipeline may still wait for input that never comes


def _answer(work: Work, job: bytes) -> None:
    out = sys.stdout.buffer
    try:
        result = list(work(job))
        out.write(msgspec.json.encode({"done": sum(map(len, result))}) + b"\n")
        for part in result:
            out.write(part)
    except errors.ClipError as error:
        _say_error(error.code, str(error))
    except MemoryError:
        _say_error(errors.CorruptImage.code, TOO_LARGE)
    except OSError as error:
        named = errors.node_fault(error)
        _say_error(named.code, str(named))
    out.flush()


def _address_space_bytes() -> int:
    """What a worker begins with: its modules, and of one that was forked its parent's as well."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def keep_descriptors(kept: Iterable[int]) -> None:
    """Of a fork: close all that its parent had open but stderr and these; nothing is its stdin."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    low = 3
    for fd in sorted(kept):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def name_process(name: str) -> None:
    """What ps and top show of this process; 15 bytes of it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _tune_malloc() -> None:
    libc = ctypes.CDLL(None)
    for parameter, value in _MALLOC.items():
        libc.mallopt(parameter, value)


def report(line: object) -> None:
    """Say one report line to the parent; from any thread of the worker."""
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def ask(question: object) -> bytes:
    """Ask the parent, and wait for its answer, one line; one question at a time."""
    report({"ask": question})
    return _answers.get()


def _say_error(code: str, message: str) -> None:
    report({"error": {"code": code, "message": message}})


def _say_bug() -> None:
    """The traceback, for the parent's log: a worker does not know how lines of that look."""
    import traceback

    report({"bug": traceback.format_exc()})


def _hear_parent() -> None:
    """Hand on the parent's answers, and end with it."""
    heard = b""
    while piece := os.read(0, 1 << 16):  # sys.stdin would be locked when the interpreter ends
        *lines, heard = (heard + piece).split(b"\n")
        for line in lines:
            _answers.put(line)
    os._exit(1)
