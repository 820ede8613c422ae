"""The content cache's processes: a parent that owns the port and the folder, and its workers.

The parent serves nothing. It opens the listeners, forks the workers, replaces one that dies, and
hands signals on. The workers wait at the same listeners, so connections that are queued there
outlive each of them; and none outlives the parent.

Not here: what a worker does (`clipfs.content.worker`).
"""

import ctypes
import gc
import math
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

from clipfs import errors
from clipfs.content import counters as count
from clipfs.content import worker
from clipfs.content.worker import GRACE_S, Shared
from clipfs.log import log

MOST_BY_DEFAULT = 4
"""Workers: beyond that the network is slower than they are."""

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Ignored where they are not waited for: a worker that is told twice to end still finishes."""

_SIGNALS = (*_FORWARDED, signal.SIGCHLD)
_BACKLOG = 1024
_DESCRIPTORS = 8192
"""Two for each of a worker's connections, those that it keeps open for ranges, and room."""

_RESTART_S = 1
"""A worker that dies is replaced at once, but not sooner than this after it was started."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def default_workers() -> int:
    return min(len(os.sched_getaffinity(0)), MOST_BY_DEFAULT)


def open_listeners(host: str, port: int) -> list[socket.socket]:
    """One for each address of host; OSError if one cannot be had."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in found:
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def serve(shared: Shared, on_listening: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; then what is in flight is finished within GRACE_S.

    There are as many workers as shared.counters is for. SIGHUP reads the TLS files again.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    handlers = {one: signal.signal(one, signal.SIG_IGN) for one in _FORWARDED}
    try:
        supervisor = _Supervisor(shared, before)
        supervisor.start()
        on_listening()
        supervisor.run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # what came since is ignored
        for one, handler in handlers.items():
            signal.signal(one, handler)


class _Supervisor:
    """The workers by their process ids, each with its number, as their parent knows them."""

    def __init__(self, shared: Shared, mask: set[int | signal.Signals]) -> None:
        self._shared = shared
        self._mask = mask
        self._number_of: dict[int, int] = {}
        self._started_at = [-math.inf] * len(shared.counters.workers)

    def start(self) -> None:
        """Fork a worker for each number that has none, unless that has just been tried."""
        now = time.monotonic()
        for number in set(range(len(self._started_at))) - set(self._number_of.values()):
            if now - self._started_at[number] >= _RESTART_S:
                self._started_at[number] = now
                try:
                    self._number_of[self._fork(number)] = number
                except OSError as error:
                    log.error("no worker could be forked; tried again", error=str(error))

    def run(self) -> None:
        """Replace workers that die, until SIGTERM or SIGINT; then end them."""
        while True:
            info = signal.sigtimedwait(_SIGNALS, _RESTART_S)
            received = info.si_signo if info else None
            if received in (signal.SIGTERM, signal.SIGINT):
                return self._end()
            if received == signal.SIGHUP:
                self._read_again()
            for pid, number, status in self._reap():
                self._shared.counters.parent[count.RESTARTS] += 1
                log.error("a worker died and is replaced", worker=number, pid=pid, status=status)
                self._remove_leftovers()
            self.start()

    def _remove_leftovers(self) -> None:
        try:
            self._shared.after_death()
        except OSError as error:
            log.warning("what a worker left stays for now", error=str(error))

    def _end(self) -> None:
        for listener in self._shared.listeners:
            listener.close()
        self._send_all(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S + 2
        while self._number_of and (left := deadline - time.monotonic()) > 0:
            signal.sigtimedwait((signal.SIGCHLD,), min(left, 1))
            self._reap()
        if self._number_of:
            log.error("workers did not end and are killed", pids=sorted(self._number_of))
            self._send_all(signal.SIGKILL)
            while self._number_of:
                signal.sigtimedwait((signal.SIGCHLD,), 1)
                self._reap()

    def _read_again(self) -> None:
        if self._shared.tls is None:
            return
        try:
            self._shared.tls.read_again()
        except errors.InvalidInput as error:
            log.error("the TLS files are not used; those from before are", error=str(error))
        else:
            log.info("the TLS files are read again")
            self._send_all(signal.SIGHUP)

    def _send_all(self, signum: signal.Signals) -> None:
        for pid in self._number_of:
            os.kill(pid, signum)  # not reaped, so nobody else's

    def _reap(self) -> list[tuple[int, int, int]]:
        """Process id, number and status of each worker that has ended."""
        found = []
        for pid, number in list(self._number_of.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._number_of[pid]
                self._shared.counters.workers[number][count.OPEN] = 0
                found.append((pid, number, os.waitstatus_to_exitcode(status)))
        return found

    def _obey_signals(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _fork(self, number: int) -> int:
        parent = os.getpid()
        gc.freeze()  # the memory that they share is not touched by looking for garbage
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            _become_worker(parent)
            worker.serve(self._shared, number, self._obey_signals)
            code = 0
        except BaseException:
            log.exception("a worker ended by an error; this is a bug")
        finally:
            for thread in set(threading.enumerate()) - {threading.current_thread()}:
                if not thread.daemon:
                    thread.join()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _become_worker(parent: int) -> None:
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(1)  # it died before it could be said
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
