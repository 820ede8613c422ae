"""The EROFS front: the kernel reads the image index and the payload files itself.

    with image_tree(index_path, payloads, scratch=run) as tree:   # a mount that is nowhere yet
        syscalls.attach(tree, mountpoint)

Nothing of ours stays in the read path. The kernel reads whole blocks of 512 bytes and gives EIO
for one that its device does not have to the end: a payload of another length is shown to it
through a padded copy without a name, which shares the payload's blocks where the disk can.

Source: Linux Documentation/filesystems/erofs.rst; ioctl_ficlone(2).
"""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.layer.index import Entry, EntryKind
from clipfs.mount import syscalls
from clipfs.system.cached import open_regular
from clipfs.system.durable import naming
from clipfs.tree.erofs import BLOCK
from clipfs.tree.merge import merge
from clipfs.tree.superblock import Device
from clipfs.tree.writer import write_image

_FICLONE = 0x40049409
_PROBE = b"probe".ljust(BLOCK, b".")


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadFile:
    """A complete payload: where it lies, and how long it must be."""

    path: Path
    payload_bytes: int

    @property
    def needs_copy(self) -> bool:
        return self.payload_bytes % BLOCK != 0


def probe(scratch: Path) -> None:
    """NodeFault with the reason if the kernel cannot show images whose files lie in scratch."""
    entry = Entry(path=b"probe", kind=EntryKind.FILE, mode=0o400, size=BLOCK)
    device = Device(digest=Digest("sha256:0"), payload_bytes=BLOCK)
    with (
        naming(scratch),  # first: what the disk refuses to a write it refuses to close, too
        tempfile.TemporaryFile(dir=scratch) as index,
        tempfile.TemporaryFile(dir=scratch) as data,
    ):
        index.write(write_image(merge([[entry]]), [device]))
        data.write(_PROBE)
        index.flush()
        data.flush()
        with _tree(_name_of(index), [data]) as tree:
            try:
                seen = _read(tree, "probe")
            except OSError as error:
                raise errors.node_fault(error) from error
    if seen != _PROBE:
        raise errors.NodeFault("the kernel's erofs shows other bytes than it was given")


@contextmanager
def image_tree(
    index_path: Path,
    payloads: Sequence[PayloadFile],
    *,
    scratch: Path,
    context: str | None = None,
) -> Iterator[int]:
    """The image of index_path over its layers' payloads, the lowest first; a detached mount.

    scratch  a folder on the payloads' disk, for padded copies
    context  SELinux's, of all files
    Raises   NodeFault if the kernel cannot, or a payload is not there or not whole
    """
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(one, scratch)) for one in payloads]
        yield stack.enter_context(_tree(str(index_path), files, context))


def device_of(tree: int) -> str:
    """ "major:minor", as mountinfo will show it."""
    number = os.fstat(tree).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


@contextmanager
def _tree(source: str, devices: Sequence[BinaryIO], context: str | None = None) -> Iterator[int]:
    """Devices go by descriptor: what was checked is what is mounted, whatever its path is."""
    names = [_name_of(file) for file in devices]
    with syscalls.detached_mount("erofs", settings_of(source, names, context)) as tree:
        yield tree


def settings_of(source: str, devices: Sequence[str], context: str | None) -> list[tuple[str, str]]:
    """What the kernel is told, in order."""
    settings = [("source", source), *(("device", name) for name in devices)]
    return settings if context is None else [*settings, ("context", context)]


def _name_of(file: BinaryIO) -> str:
    return f"/proc/self/fd/{file.fileno()}"


@contextmanager
def _opened(payload: PayloadFile, scratch: Path) -> Iterator[BinaryIO]:
    """The payload in whole blocks, as a file whose name does not matter any more."""
    with ExitStack() as stack:
        try:
            file: BinaryIO = stack.enter_context(open(open_regular(payload.path), "rb"))
            found_bytes = os.fstat(file.fileno()).st_size
            if found_bytes != payload.payload_bytes:
                raise errors.NodeFault(
                    f"payload {payload.path.name} has {found_bytes} bytes, not "
                    f"{payload.payload_bytes}"
                )
            if payload.needs_copy:
                copy: BinaryIO = stack.enter_context(tempfile.TemporaryFile(dir=scratch))
                with naming(payload.path):
                    _clone_or_copy(file.fileno(), copy.fileno(), found_bytes)
                    os.ftruncate(copy.fileno(), -(-found_bytes // BLOCK) * BLOCK)
                file = copy
        except OSError as error:
            raise errors.node_fault(error) from error
        yield file


def _clone_or_copy(source: int, target: int, size: int) -> None:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
            raise
        _copy(source, target, size)


def _copy(source: int, target: int, size: int) -> None:
    left = size
    while left and (done := os.copy_file_range(source, target, left)):
        left -= done
    if left:
        raise errors.NodeFault("a payload became shorter while it was copied")


def _read(tree: int, name: str) -> bytes:
    with open(os.open(name, os.O_RDONLY, dir_fd=tree), "rb") as file:
        return file.read()
