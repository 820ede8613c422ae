"""Files that a power cut leaves whole or absent: what is said to be there is on the disk.

Not here: payloads and their chunk maps (`clipfs.layer.partial`).
Source: fsync(2), rename(2), "Notes": a new name is durable once its folder was fsynced.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from clipfs.system.cached import replace
from clipfs.system.processes import is_running, name_of


def write_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """pwrite data to its end, however many calls that takes."""
    view = memoryview(data)
    with naming(fd):
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written


def copy_all(source: int, offset: int, count: int, fd: int) -> None:
    """Write count bytes of source, from offset on, to fd; EOFError if it has fewer."""
    with naming(fd):
        while count:
            written = os.sendfile(fd, source, offset, count)
            if not written:
                raise EOFError(f"{count} bytes fewer than there should be")
            offset, count = offset + written, count - written


@contextlib.contextmanager
def naming(file: int | Path) -> Iterator[None]:
    """Have an OSError of a call on a descriptor say which file that is."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            with contextlib.suppress(OSError):  # the error without a name is better than another
                link = f"/proc/self/fd/{file}"
                error.filename = os.readlink(link) if isinstance(file, int) else str(file)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in folder durable, new ones and removed ones."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with naming(fd):
            os.fsync(fd)
    finally:
        os.close(fd)


def write_atomically(path: Path, data: bytes | bytearray, *, durable: bool = True) -> None:
    """Replace path by data, whole or not at all, durable on return.

    durable  False: nobody waits for the disk, and a power cut may leave anything under that name;
             for what says itself whether it is whole, and can be had again
    """
    make_atomically(path, lambda fd: write_all(fd, data, 0), durable=durable)


def make_atomically(path: Path, write: Callable[[int], object], *, durable: bool = True) -> None:
    """As `write_atomically`, of what write puts into the descriptor that it is given."""
    fresh = _fresh(path, write, durable=durable)
    try:
        replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def create_atomically(path: Path, data: bytes) -> None:
    """As `write_atomically`, but a path that exists is left as it is: the first one wins."""
    fresh = _fresh(path, lambda fd: write_all(fd, data, 0))
    try:
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink()
    sync_folder(path.parent)


def _fresh(path: Path, write: Callable[[int], object], *, durable: bool = True) -> Path:
    """A file beside path that holds what write puts into it; nobody else has its name."""
    fresh = path.with_name(f"{path.name}.{name_of(os.getpid())}.{os.urandom(4).hex()}.tmp")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write(fd)
        if durable:
            with naming(fd):
                os.fsync(fd)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    return fresh


def is_forsaken(fresh: Path) -> bool:
    """Whether a `*.tmp` file is one of these, and whoever wrote it has died before its rename."""
    parts = fresh.name.rsplit(".", 4)
    is_ours = len(parts) == 5 and parts[1].isdecimal() and parts[2].isdecimal()
    return is_ours and not is_running(f"{parts[1]}.{parts[2]}")
