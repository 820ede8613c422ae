"""The worker's side of `clipfs.system.workers`, whose docstring has the protocol.

Apart from the parent's side, so that a worker does not load trio: it starts in half the time.
"""

import gc
import os
import queue
import resource
import sys
import threading
from collections.abc import Callable, Iterable

import msgspec

from clipfs import errors

TOO_LARGE = "needs more memory than a worker gets; if it has millions of files, pack them together"

_SWITCH_S = 0.0005
"""How long a thread that runs Python makes the others wait. Those of a pass hash, inflate and
write without the GIL and want it for a moment only: at the usual 5 ms they would stand still
behind the tar parser."""

_answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()


def worker_main(work: Callable[[bytes], Iterable[bytes | bytearray | memoryview]]) -> None:
    """The body of a worker module's `__main__`: limits, job, result in parts; never returns."""
    memory_bytes = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setswitchinterval(_SWITCH_S)
    gc.disable()  # a tree of a million nodes has no garbage, and is looked through again and again
    job, newline, _ = sys.stdin.buffer.readline().partition(b"\n")
    if not newline:
        os._exit(1)  # the parent is gone
    threading.Thread(target=_hear_parent, daemon=True).start()
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
    os._exit(0)  # threads of the pipeline may still wait for input that never comes


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


def _hear_parent() -> None:
    """Hand on the parent's answers, and end with it."""
    heard = b""
    while piece := os.read(0, 1 << 16):  # sys.stdin would be locked when the interpreter ends
        *lines, heard = (heard + piece).split(b"\n")
        for line in lines:
            _answers.put(line)
    os._exit(1)
