"""An image with all that a tree may hold, as layer entries and the payloads behind them."""

import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clipfs.layer.index import Entry, EntryKind
from clipfs.mount import syscalls
from clipfs.tree.merge import merge
from clipfs.tree.superblock import Device
from clipfs.tree.writer import write_image
from tests.support.entries import device, devices_of, file, folder, link, symlink, whiteout

MANY = 10_000
SIZES = (1, 511, 512, 513, 4095, 4096, 4097, 131_071, 1_048_579)
TARGETS = (1, 60, 415, 416, 417, 447, 448, 449, 480, 511, 512, 513, 1024, 4095)
TIMES = ((-1, 999_999_999), (-(1 << 33), 1), (1 << 33, 0), (0, 1), (1_700_000_000, 123_456_789))
IDS = (1, 65_534, 65_536, 1 << 31, (1 << 32) - 2)
NAMES = (b"\xff\xfe", b"n" * 255, b"new\nline", b" ", b"back\\slash", b"\x1b[31m", b"...", b"-rf")
CAPABILITY = struct.pack("<IIIII", 0x0200_0001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, number)  # acl(5): tag, rwx, id
    for tag, permissions, number in [
        (0x01, 7, 0xFFFF_FFFF), (0x02, 5, 1234), (0x04, 4, 0xFFFF_FFFF),
        (0x10, 5, 0xFFFF_FFFF), (0x20, 0, 0xFFFF_FFFF),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Torture:
    """`payloads[n]` holds what the files of `layers[n]` contain."""

    layers: list[list[Entry]]
    payloads: list[bytes]

    def image(self) -> bytes:
        sizes = [len(payload) for payload in self.payloads]
        return image_over(self.layers, sizes)

    def content(self, entry: Entry) -> bytes:
        layer = next(n for n, entries in enumerate(self.layers) if entry in entries)
        return self.payloads[layer][entry.payload_offset : entry.payload_offset + entry.size]


def image_over(layers: Sequence[Sequence[Entry]], payload_bytes: Sequence[int]) -> bytes:
    """The image index of layers whose payloads have just these sizes."""
    digests = [one.digest for one in devices_of(len(payload_bytes))]
    devices = [
        Device(digest=digest, payload_bytes=size)
        for digest, size in zip(digests, payload_bytes, strict=True)
    ]
    return bytes(write_image(merge(layers), devices))


def torture() -> Torture:
    """Two layers; no file system that a test could run on would hold it all."""
    lower = [folder(b"", 0o751, uid=7, gid=8, mtime_s=-5, mtime_ns=6), folder(b"sizes", 0o755)]
    offset = 512
    for size in SIZES:
        lower.append(file(b"sizes/%d" % size, offset=offset, size=size))
        offset += -(-size // 512) * 512 + 512
    lower += [symlink(b"link-%d" % size, b"t" * size) for size in TARGETS]
    lower += [file(b"times-%d" % n, mtime_s=s, mtime_ns=ns) for n, (s, ns) in enumerate(TIMES)]
    lower += [file(b"owner-%d" % number, uid=number, gid=number - 1) for number in IDS]
    lower += [file(b"mode-%o" % mode, mode=mode) for mode in (0, 0o4755, 0o2711, 0o7777)]
    lower += [folder(b"sticky", 0o1777), folder(b"empty folder")]
    lower += [file(b"names/" + name) for name in NAMES]
    lower += [
        device(b"devices/char", EntryKind.CHARACTER, 5, 1),
        device(b"devices/block", EntryKind.BLOCK, 8, 300),
        device(b"devices/largest", EntryKind.CHARACTER, (1 << 12) - 1, (1 << 20) - 1),
        device(b"devices/fifo", EntryKind.FIFO),
    ]
    lower += [
        file(b"xattrs/many", xattrs=tuple((b"user.%03d" % n, b"v" * n) for n in range(40))),
        file(b"xattrs/empty", xattrs=((b"user.e", b""),)),
        file(b"xattrs/long", xattrs=((b"user." + b"n" * 250, bytes(range(256)) * 60),)),
        file(b"xattrs/capability", mode=0o755, xattrs=((b"security.capability", CAPABILITY),)),
        file(b"xattrs/acl", mode=0o750, xattrs=((b"system.posix_acl_access", ACL),)),
        folder(b"xattrs/folder", 0o750, xattrs=((b"system.posix_acl_default", ACL),)),
    ]
    lower += [file(b"many/%d-%s" % (n, b"x" * (n % 60))) for n in range(MANY)]
    lower += [link(b"linked/%d" % n, b"sizes/4097") for n in range(3)]
    lower += [file(b"gone/file", offset=512, size=1), file(b"replaced", offset=0, size=100)]
    upper = [whiteout(b"gone"), file(b"replaced", offset=512, size=700)]
    upper += [link(b"linked/across", b"sizes/513"), file(b"at the end", offset=1536, size=77)]
    fill = random.Random(1)
    return Torture([lower, upper], [fill.randbytes(offset), fill.randbytes(1536 + 77)])


@contextmanager
def erofs_mounted(image: bytes, payloads: Sequence[bytes | Path], home: Path) -> Iterator[Path]:
    """image as the kernel's own EROFS shows it: the judge that shares no code with us.

    It reads whole blocks, and gives EIO for one that its device does not have to the end.

    payloads  their bytes, or files that hold them
    """
    home.mkdir()
    index, place = home / "index", home / "mount"
    index.write_bytes(image)
    place.mkdir()
    files = [
        home / f"payload-{number}" if isinstance(payload, bytes) else payload
        for number, payload in enumerate(payloads)
    ]
    for path, payload in zip(files, payloads, strict=True):
        if isinstance(payload, bytes):
            path.write_bytes(payload + bytes(-len(payload) % 512))
    options = ",".join(f"device={path}" for path in files)
    syscalls.mount(str(index), place, "erofs", syscalls.MS_RDONLY, options)
    try:
        yield place
    finally:
        syscalls.detach(place)
