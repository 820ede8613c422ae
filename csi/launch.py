"""`clipfs` as the driver starts it: the command dies with the driver, its server does not.

A driver that was killed undoes nothing. Were its command to go on, the mount would appear
after the next driver has cleaned up, and stay for ever. fork(2) clears the wish, so that the
server which the command leaves behind is free of it.

    python -m csi.launch DRIVER_PID mount IMAGE MOUNTPOINT ...

Source: prctl(2), PR_SET_PDEATHSIG. The thread that starts us counts as the parent: that of the
work (`csi.work`), which waits for our end.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Be killed at the end of parent, or end now if that was before the kernel knew."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's "&" has ignored
    die_with(int(sys.argv[1]))
    from clipfs.cli.main import run  # takes a while, in which it may be told to end

    run(sys.argv[2:])
