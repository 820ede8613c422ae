"""Opens files of ours that can be made again, and sets aside what cannot be one of them.

    fd = open_cached(path)        # None is a miss: none is there, or what was there is set aside

A disk may fail, and people err: what bears the name of a cached file may be a file that cannot be
read, a folder, a FIFO. None of that may fail, or hang, what could be answered without it.

Not here: whether the bytes are right, which is for those who know their digests.
Source: open(2), "O_NONBLOCK"; of the errors, EUCLEAN and EBADMSG are how ext4 and XFS say damage.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path

from clipfs.log import log

DAMAGED = "damaged"
"""The folder, beside the cached file's own, that keeps what is not ours to remove."""

_THE_FILES = (
    errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ESTALE, errno.ELOOP, errno.ENXIO, errno.ENODEV
)  # fmt: skip
"""What open(2) and read(2) say where the file is at fault: the node's limits are not among them."""


class Unreadable(OSError):
    """What is there is no regular file, or the disk cannot read it."""


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of the regular file at path; never waits, as a FIFO would have it.

    Raises  Unreadable; FileNotFoundError; OSError if the fault is not the file's
    """
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except IsADirectoryError as error:  # it is to be written
        raise _irregular(path) from error
    except OSError as error:
        raise _blamed(error, path) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _irregular(path)
    return fd


def read_regular(path: Path) -> bytes:
    """All bytes of the regular file at path; raises as `open_regular`."""
    with open(open_regular(path), "rb") as file:
        try:
            return file.read()
        except OSError as error:
            raise _blamed(error, path) from error


def open_cached(path: Path, flags: int = os.O_RDONLY) -> int | None:
    """As `open_regular`; None if there is none, or if what is there was set aside, with a warning.

    With O_CREAT in flags an empty file takes its place; Unreadable if it cannot.
    """
    try:
        return open_regular(path, flags)
    except FileNotFoundError:
        return None
    except Unreadable as error:
        set_aside(path, _reason(error))
        return open_regular(path, flags) if flags & os.O_CREAT else None


def read_cached(path: Path) -> bytes | None:
    """All bytes of the file at path; None as of `open_cached`, or if they cannot be read."""
    try:
        return read_regular(path)
    except FileNotFoundError:
        return None
    except Unreadable as error:
        set_aside(path, _reason(error))
        return None


def is_unreadable(error: OSError) -> bool:
    """Whether an error of a call on an open file says that the disk cannot read it."""
    return error.errno in _THE_FILES


def set_aside(path: Path, why: str) -> None:
    """Take away what stands in a cached file's place; a disk that refuses keeps it."""
    _warn("cached file is damaged, it is made again", path=path, reason=why)
    try:
        discard(path)
    except OSError as error:
        _warn("damaged file cannot be set aside", path=path, error=str(error))


def discard(path: Path) -> None:
    """Remove what has a cached file's name. What a folder holds is not ours: it is moved away."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        with contextlib.suppress(OSError):  # it is not empty
            path.rmdir()
            return
        place = path.parent.with_name(DAMAGED)
        place.mkdir(mode=0o700, exist_ok=True)
        path.rename(place / f"{path.name}.{os.urandom(4).hex()}")


def replace(fresh: Path, path: Path) -> None:
    """rename(2), over a folder too, which is set aside."""
    try:
        os.rename(fresh, path)
    except (IsADirectoryError, NotADirectoryError):
        if not path.is_dir():
            raise
        set_aside(path, "it is no regular file")
        os.rename(fresh, path)


def _irregular(path: Path) -> Unreadable:
    return Unreadable(errno.EINVAL, "it is no regular file", str(path))


def _blamed(error: OSError, path: Path) -> OSError:
    return Unreadable(error.errno, error.strerror, str(path)) if is_unreadable(error) else error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _warn(event: str, *, path: Path, **more: str) -> None:
    log.warning(event, path=str(path), **more)
