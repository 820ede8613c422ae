"""Where a mount goes: made if absent, empty, not a mount; removed again if nothing came of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipfs import errors
from clipfs.mount.mountinfo import mounts_at


def check_mountpoint(path: Path) -> None:
    """InvalidInput unless path is absent or an empty folder; never touches a mount."""
    if mounts_at(path):
        raise errors.InvalidInput(
            f"mount point {path} is a mount already; `clipfs unmount {path}` first"
        )
    try:
        if os.listdir(path):
            raise errors.InvalidInput(f"mount point {path} is not empty; name an empty folder")
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise errors.InvalidInput(f"mount point {path} is not a folder") from error


@contextmanager
def made_mountpoint(path: Path) -> Iterator[None]:
    """The folder, with its parents, for the block; what was made goes again if that raises."""
    made = [one for one in (path, *path.parents) if not one.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.InvalidInput(f"mount point {path}: {error.strerror}") from error
    try:
        yield
    except BaseException:
        for one in made:
            try:
                one.rmdir()
            except OSError:
                break
        raise
