"""Where a mount goes: made if absent, empty, not a mount; removed again if nothing came of it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipfs import errors
from clipfs.mount.mountinfo import mounts_at


def real_mountpoint(path: Path) -> Path:
    """path as mountinfo writes it: absolute, free of symlinks; a mount is never looked into."""
    path = path.absolute()  # first: `.` has neither a name nor a parent of its own
    place = Path(os.path.realpath(path.parent)) / path.name
    if path.name != ".." and mounts_at(place):
        return place
    return Path(os.path.realpath(place))


def check_mountpoint(path: Path) -> None:
    """InvalidInput unless path is absent or an empty folder; never touches a mount."""
    if mounts_at(path):
        raise errors.InvalidInput(
            f"mount point {path} is a mount already; `clipfs unmount {path}` first"
        )
    try:
        str(path).encode()  # it is written down in the mount's record, which is JSON
        names = os.listdir(path)
    except UnicodeEncodeError as error:
        raise errors.InvalidInput(f"mount point {path} is not UTF-8; name another") from error
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise errors.InvalidInput(f"mount point {path} is not a folder") from error
    except OSError as error:
        raise errors.InvalidInput(f"mount point {path}: {error.strerror}") from error
    if names:
        raise errors.InvalidInput(f"mount point {path} is not empty; name an empty folder")


@contextmanager
def made_mountpoint(path: Path) -> Iterator[None]:
    """The folder, with its parents, for the block; what was made goes again if that raises."""
    made: list[Path] = []
    try:
        _make(path, made)
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):  # somebody uses it by now; the first error counts
                folder.rmdir()
        raise


def _make(path: Path, made: list[Path]) -> None:
    try:
        for folder in reversed((path, *path.parents)):
            with suppress(FileExistsError):
                folder.mkdir()
                made.append(folder)
    except OSError as error:
        if errors.is_the_disks(error) and error.errno != errno.EROFS:  # which is the caller's
            raise errors.node_fault(error) from error
        raise errors.InvalidInput(f"mount point {path}: {error.strerror}") from error
