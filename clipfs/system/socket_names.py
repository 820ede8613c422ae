"""Names of unix sockets that fit into `sun_path`, wherever the socket is.

Source: unix(7), which has room for 107 bytes; proc(5), /proc/pid/fd.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name for path that can be bound or connected to, as long as the block runs."""
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
