"""PID 1 of the container: starts the driver, forwards signals, reaps, starts it again.

It must be tiny, since its death kills every server in the container; so it forks before the
driver imports anything, and the driver's death is not its own.
"""

import contextlib
import os
import signal
import sys
import time

RESTART_DELAY_S = 1
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def hold_signals() -> None:
    """From now on those for PID 1 wait for `supervise`: the kernel drops what it has no handler
    for, unless that is blocked, and the kubelet would wait for 2 minutes."""
    if os.getpid() == 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)


def supervise(*, as_json: bool = False) -> None:
    """Return in a child, which is to drive; the caller restarts it for as long as it lives.

    The caller itself ends with its child's exit code, once that was told to end.

    as_json  how its lines look
    """
    told = False
    child = code = 0

    def forward(number: int, _: object) -> None:
        nonlocal told
        told = told or number in (signal.SIGTERM, signal.SIGINT)
        if child:
            with contextlib.suppress(ProcessLookupError):  # it has just been reaped
                os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    while True:
        # a signal between the look, fork and the lines after it would be lost: it waits for them
        signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        if told:
            sys.exit(code)
        child = os.fork()
        if child == 0:
            for number in _FORWARDED:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        if child == 0:
            return
        code = _reap_until(child)
        child = 0
        if not told:
            _say(code, as_json)
            time.sleep(RESTART_DELAY_S)


def _reap_until(child: int) -> int:
    """Reap every child, orphans too, until this one has ended; its exit code, 128+n of a signal."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _say(code: int, as_json: bool) -> None:
    line = f"clip-csi: the driver ended with {code}; starting it again"
    if as_json:  # by hand: what could do it is not for PID 1 to load
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f'{{"event": "{line}", "code": {code}, "level": "error", "timestamp": "{now}"}}'
    print(line, file=sys.stderr)
