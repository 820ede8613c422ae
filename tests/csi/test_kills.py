"""Processes die while pods read: a kill counts only with a request in flight, and says so."""

import errno
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.csi.conftest import Lazy
from tests.support.driver import mounts_below, servers
from tests.support.fusectl import in_flight
from tests.support.machine import needs_fuse
from tests.support.said import Say
from tests.support.wait import wait_for

pytestmark = needs_fuse

READERS = 4


@contextmanager
def reading(lazy: Lazy, tmp_path: Path, say: Say) -> Iterator[list[Future[bytes]]]:
    """Readers at offsets of their own, every one of them with its request in flight."""
    lazy.cache.tell(signal.SIGSTOP)
    try:
        with (
            ThreadPoolExecutor(READERS) as pool,
            in_flight(lazy.target, tmp_path / "fusectl") as count,
        ):
            fds = [os.open(lazy.target / "data", os.O_RDONLY) for _ in range(READERS)]
            for fd in fds:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            found = [pool.submit(os.pread, fd, 4096, n << 19) for n, fd in enumerate(fds)]
            wait_for(lambda: count() >= READERS)
            say(f"{count()} requests are in flight at the kill")
            yield found
            lazy.cache.tell(signal.SIGCONT)
            for one in found:
                one.exception(30)
            for fd in fds:
                with suppress(OSError):  # of a dead mount; it is closed all the same
                    os.close(fd)
    finally:
        lazy.cache.tell(signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_reads_in_flight_outlive_the_driver(
    number: signal.Signals,
    lazy: Lazy,
    layout_data: bytes,
    tmp_path: Path,
    say: Say,
) -> None:
    with reading(lazy, tmp_path, say) as found:
        lazy.driver.process.send_signal(number)
        lazy.driver.process.wait(20)
    wanted = [layout_data[n << 19 : (n << 19) + 4096] for n in range(READERS)]
    assert [one.result() for one in found] == wanted


def test_reads_in_flight_fail_with_their_server_and_hold_nothing_up(
    lazy: Lazy,
    layout_data: bytes,
    image: str,
    tmp_path: Path,
    say: Say,
) -> None:
    with reading(lazy, tmp_path, say) as found:
        os.kill(servers(tmp_path / "root")[0], signal.SIGKILL)
        said = [one.exception(30) for one in found]
    assert {error.errno for error in said if isinstance(error, OSError)} <= {
        errno.ENOTCONN,
        errno.ECONNABORTED,
    }
    assert all(said)
    lazy.driver.unpublish("pod")
    assert mounts_below(tmp_path) == []
    again = lazy.driver.publish("pod", image)
    assert (again / "data").read_bytes() == layout_data
