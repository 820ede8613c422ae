"""Reads past the page cache of one file: the machine's is shared with tests that count reads."""

import os
from pathlib import Path


def read_anew(path: Path) -> bytes:
    """All of a file whose pages the kernel has let go first."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()
