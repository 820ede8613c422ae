"""PID 1 of the container: starts the driver, forwards signals, reaps, starts it again.

It must be tiny, since its death kills every server in the container; so it forks before the
driver imports anything, and the driver's death is not its own.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable

RESTART_DELAY_S = 1
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def supervised(drive: Callable[[], None]) -> None:
    """Run drive() in a child, again if it dies by itself; never returns.

    Ends with the driver's exit code once it was told to end, or if it ends with a usage error.
    """
    told = False
    child = 0

    def forward(number: int, _: object) -> None:
        nonlocal told
        told = told or number in (signal.SIGTERM, signal.SIGINT)
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    while True:
        child = _start(drive)
        code = _reap_until(child)
        child = 0
        if told or code == 2:
            sys.exit(code)
        print(f"clip-csi: the driver ended with {code}; starting it again", file=sys.stderr)
        time.sleep(RESTART_DELAY_S)
        if told:
            sys.exit(code)


def _start(drive: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    for number in _FORWARDED:
        signal.signal(number, signal.SIG_DFL)
    code = 1
    try:
        drive()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reap_until(child: int) -> int:
    """Reap every child, orphans too, until this one has ended; its exit code, 128+n of a signal."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
