"""The FUSE connection: /dev/fuse opened and mounted by us, INIT answered by us.

libfuse serves a descriptor that it is given as "/dev/fd/N", but it wants to answer INIT
itself. So INIT is read from the device here, handed to libfuse through a socket pair, its
answer read back, corrected and written to the device; then the device takes the socket's
place. A server that takes an old connection over goes the same way, with the INIT that was
stored: one code path for both.

Source: Linux include/uapi/linux/fuse.h, Documentation/filesystems/fuse; libfuse 3.14.
"""

import os
import socket
import struct
from pathlib import Path

import pyfuse3
import trio

from clipfs import errors
from clipfs.mount import syscalls

MAX_READ_AHEAD_BYTES = 256 << 10
"""A page fault brings so much around it, needed or not: here it moves three chunks at most, with
1 MiB it moved nine. Who reads in order loses little by it, since the tiers read ahead, too
(`python -m bench.read_ahead`).
"""

MAX_BACKGROUND = 64
_DEVICE = "/dev/fuse"
_HEADER = struct.Struct("<IIQ")  # of an answer: length, error, unique
_IN_HEADER_BYTES = 40
_FUSE_INIT = 26
_INIT_BYTES = 64 << 10
_BLOCKED = "the kernel or a security policy does not allow FUSE here"

# fuse_init_in: major, minor, max_readahead, flags, flags2
_REQUEST_FLAGS, _REQUEST_FLAGS2 = _IN_HEADER_BYTES + 12, _IN_HEADER_BYTES + 16
# fuse_init_out: major, minor, max_readahead, flags, background u16, threshold u16, ..., flags2
_ANSWER_READ_AHEAD, _ANSWER_FLAGS, _ANSWER_BACKGROUND, _ANSWER_FLAGS2 = 24, 28, 32, 48

FUSE_ASYNC_DIO = 1 << 15
FUSE_CACHE_SYMLINKS = 1 << 23
FUSE_INIT_EXT = 1 << 30
FUSE_ALLOW_IDMAP = 1 << 8  # of flags2


def open_fuse() -> int:
    """A new connection; NodeFault if the node has no FUSE."""
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise errors.NodeFault(f"{_DEVICE}: {error.strerror}; {_BLOCKED}") from error


def mount_fuse(fd: int, mountpoint: Path, *, source: str, context: str | None = None) -> None:
    """Mount the connection read-only; source is what mountinfo shows, context SELinux's."""
    options = mount_options(fd, context)
    flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOATIME
    syscalls.mount(source, mountpoint, "fuse.clip", flags, options)


def mount_options(fd: int, context: str | None) -> str:
    """What mount(2) is told: in one string, so that a context, which may hold commas, is quoted."""
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    return options if context is None else f'{options},context="{context}"'


async def read_init(fd: int) -> bytes:
    """The kernel's first request, as it stands."""
    await trio.lowlevel.wait_readable(fd)
    request = os.read(fd, _INIT_BYTES)
    if struct.unpack_from("<I", request, 4)[0] != _FUSE_INIT:
        raise errors.NodeFault("the FUSE connection does not begin with INIT")
    return request


async def initialise(operations: pyfuse3.Operations, fd: int, init: bytes) -> int:
    """Make libfuse serve fd, whose INIT was init; the descriptor that it serves on.

    Writes the answer to fd: a taken-over connection, which has had it, is a later version's.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        number = theirs.detach()
        pyfuse3.init(operations, f"/dev/fd/{number}", set())
        ours.send(patched_request(init))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            await trio.lowlevel.wait_readable(ours)
            answer = ours.recv(_INIT_BYTES)
            nursery.cancel_scope.cancel()
    os.write(fd, patched_answer(answer, init))
    os.dup2(fd, number, inheritable=False)
    return number


def patched_request(request: bytes) -> bytes:
    """INIT as libfuse may see it: without FUSE_ASYNC_DIO.

    With it, a reader with O_DIRECT of a server that died could not be killed.
    """
    patched = bytearray(request)
    (flags,) = struct.unpack_from("<I", patched, _REQUEST_FLAGS)
    struct.pack_into("<I", patched, _REQUEST_FLAGS, flags & ~FUSE_ASYNC_DIO)
    return bytes(patched)


def patched_answer(answer: bytes, request: bytes) -> bytes:
    """libfuse's answer, and what it does not know: idmapped mounts, cached symlinks.

    The kernel takes the lesser of the answer's read-ahead and its own, which libfuse would
    repeat to it: `raise_read_ahead` would be undone.
    """
    length, error, _ = _HEADER.unpack_from(answer)
    if error or len(answer) < _ANSWER_FLAGS2 + 4 or length != len(answer):
        raise errors.NodeFault(f"libfuse refused INIT (error {error}, {len(answer)} bytes)")
    (offered,) = struct.unpack_from("<I", request, _REQUEST_FLAGS)
    offered2 = 0
    if offered & FUSE_INIT_EXT:
        (offered2,) = struct.unpack_from("<I", request, _REQUEST_FLAGS2)
    patched = bytearray(answer)
    (flags,) = struct.unpack_from("<I", patched, _ANSWER_FLAGS)
    (flags2,) = struct.unpack_from("<I", patched, _ANSWER_FLAGS2)
    flags |= offered & (FUSE_CACHE_SYMLINKS | FUSE_INIT_EXT)
    flags2 |= offered2 & FUSE_ALLOW_IDMAP
    struct.pack_into("<II", patched, _ANSWER_READ_AHEAD, MAX_READ_AHEAD_BYTES, flags)
    struct.pack_into("<HH", patched, _ANSWER_BACKGROUND, MAX_BACKGROUND, MAX_BACKGROUND * 3 // 4)
    struct.pack_into("<I", patched, _ANSWER_FLAGS2, flags2)
    return bytes(patched)


def raise_read_ahead(device: str) -> None:
    """Let the kernel read further ahead on a mount; device is its "major:minor".

    Best effort: in an unprivileged container the setting is read-only.
    """
    try:
        path = Path(f"/sys/class/bdi/{device}/read_ahead_kb")
        path.write_text(str(MAX_READ_AHEAD_BYTES >> 10))
    except OSError:
        pass
