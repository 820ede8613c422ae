"""The process that `clipfs` commands of the driver are forks of: it has their modules loaded.

A start of Python and of what a mount needs takes 0.2 s of a core; a fork of them takes 5 ms, and
servers share the memory. A command dies with the driver, its server does not: a driver that was
killed undoes nothing, and were its command to go on, the mount would appear after the next driver
has cleaned up, and stay for ever. fork(2) clears the wish, so that the server which a command
leaves behind is free of it.

    python -m csi.launch DRIVER_PID DESCRIPTOR ROOM_FOR_WORDS

Source: prctl(2), PR_SET_PDEATHSIG. The thread that starts us counts as the parent.
Not here: who asks (`csi.launcher`).
"""

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from clipfs.cli import main as clipfs
from clipfs.system.child import name_process
from clipfs.system.forking import forks_for, show_words

_PR_SET_PDEATHSIG = 1

LOADED = (
    "clipfs.cli.mount",
    "clipfs.cli.index",
    "clipfs.cli.showing",
    "clipfs.mount.server",
    "clipfs.layer.worker",
    "clipfs.tree.worker",
    "structlog",
    "httpcore",
    "encodings.idna",
)
"""What a mount loads sooner or later; an object store's client stays for those who need it."""


def main() -> NoReturn:
    driver, control = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    die_with(driver)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, commands would leave no status
    show_words(["clip-csi", "launcher"])
    name_process("launcher")
    for name in LOADED:
        import_module(name)
    launcher = os.getpid()

    def run(words: Sequence[str]) -> NoReturn:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's "&" has ignored
        die_with(launcher)
        show_words(["clipfs", *words])
        name_process("clipfs")
        clipfs.run(words)

    forks_for(control, run)


def die_with(parent: int) -> None:
    """Be killed at the end of parent, or end now if that was before the kernel knew."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
