"""Locks that processes of one node hold on a name, for as long as they live.

A lock is an flock(2) on a file of its own below `run/`, so that what it guards may be replaced
or removed meanwhile; it ends with its holder, however that dies. Whoever holds a lock alone
removes its file at the end, so a lock counts only while its file still has its name.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Try to hold the lock at path alone: True while held, False if somebody else holds it."""
    fd = _opened(path)
    try:
        if not lock_now(fd) or not same_file(path, fd):  # its last holder has just removed it
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


@contextmanager
def together(path: Path) -> Iterator[bool]:
    """Try to hold the lock at path with others: True while held, False if one holds it alone."""
    fd = _opened(path)
    try:
        yield _share_now(fd) and same_file(path, fd)
    finally:
        end_share(path, fd)


def share(path: Path) -> int:
    """A descriptor that holds the lock at path with others; waits while one holds it alone."""
    while True:
        fd = _opened(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            if same_file(path, fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def end_share(path: Path, fd: int) -> None:
    """Give a shared lock back; the last one removes its file."""
    try:
        if lock_now(fd) and same_file(path, fd):
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def lock_now(fd: int) -> bool:
    """Whether the file is now locked by this descriptor alone."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _share_now(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def same_file(path: Path, fd: int) -> bool:
    """Whether path still names the file that fd has open."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
