"""Tar archives to begin with, and their mutation: blocks are kept, checksums made right."""

import functools
import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from random import Random

from tests.fuzz.judge import Mutate
from tests.layer.tars import BLOCK, END, base256, long_name, member, padded, record, records
from tests.support.raw_tar import with_checksum

_FIELDS = [(0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (124, 12), (136, 12), (156, 1),
           (157, 100), (257, 8), (329, 8), (337, 8), (345, 155)]  # fmt: skip
_NUMBERS = [0, 0, 1, 7, 64, 511, 512, 513, 600, 1 << 20, 1 << 31]
_ODD_NUMBERS = [1 << 32, 1 << 33, 1 << 40, -1, -512, 1 << 62]
_NAMES = [b"a", b"d/", b"d/b", b"../up", b"/x//y/.", b"", b".wh.a", b".wh..wh..opq", b"n" * 100,
          b"d/../e", b"\xff", b".", b"s/x"]  # fmt: skip
_TYPES, _RARE_TYPES = b"\x000123456701256", b"xgLKXSDMNVZ"
_KEYS = [b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid", b"SCHILY.xattr.user.a",
         b"SCHILY.xattr.security.capability", b"LIBARCHIVE.xattr.user.b%20", b"comment",
         b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.realsize", b"hdrcharset", b"ctime",
         b"LIBARCHIVE.xattr.user.b", b"SCHILY.xattr.user."]  # fmt: skip
_VALUES = [b"", b"0", b"7", b"512", b"0", b"12.5", b"-0.1", b"QUJD", b"d/e", b"a", b"QUJ",
           b"=", b"9" * 25, b"-1", b"1e3", b"4294967296", b"1.-5", b"+5", b" 5", b"1_0",
           b"BINARY", b"\xff\0x", b"\xc2\xb2", b"9" * 5000]  # fmt: skip


def written_by_python() -> Iterable[bytes]:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for name, kind, link in [
                ("d", tarfile.DIRTYPE, ""), ("d/f", tarfile.REGTYPE, ""),
                ("d/s", tarfile.SYMTYPE, "../x"), ("h", tarfile.LNKTYPE, "d/f"),
                ("c", tarfile.CHRTYPE, ""), ("p", tarfile.FIFOTYPE, ""),
                ("l" * 90 + "/" + "m" * 90, tarfile.REGTYPE, ""),
            ]:  # fmt: skip
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.mtime = kind, link, 1_600_000_000
                info.size = 5 if kind == tarfile.REGTYPE else 0
                info.devmajor = 1
                archive.addfile(info, io.BytesIO(b"hello"))
        yield padded(buffer.getvalue().rstrip(b"\0")) + END


def written_by_hand() -> Iterable[bytes]:
    xattrs = {b"SCHILY.xattr.user.a": b"v", b"LIBARCHIVE.xattr.user.b": b"QUJD"}
    times = {b"mtime": b"-1.5", b"uid": b"70000", b"size": b"5", b"path": b"d/\xc3\xa9"}
    return [
        END,
        member(b"a", b"one") + member(b"b/", typeflag=b"5") + END,
        records({**xattrs, **times}) + member(b"x", b"hello") + END,
        records({b"gid": b"5"}, typeflag=b"g") + member(b"x") + member(b"y", typeflag=b"7") + END,
        long_name(b"n" * 200) + long_name(b"t" * 200, typeflag=b"K") + member(typeflag=b"2") + END,
        member(b"s", typeflag=b"2", link=b"/d/../e") + member(b"s/x", b"y" * 513) + END,
        member(b"h", typeflag=b"1", link=b"late", size=9) + member(b"late", b"z" * 512) + END,
        member(b"big", b"b", size=base256(1, 12), mtime=base256(-5, 12)) + END,
        member(b"w/.wh.a") + member(b"w/.wh..wh..opq") + member(b"w", typeflag=b"5") + END,
        member(b"c", typeflag=b"3", devmajor=5, devminor=1) + bytes(BLOCK) + member(b"f", b"q"),
        member(b"v7/", magic=bytes(8), typeflag=b"\0") + member(b"p", prefix=b"q/r") + END,
        member(b"signed\xff", b"", signed_sum=True) + member(b"dump", typeflag=b"V") + END,
    ]


@functools.cache
def sparse_of_gnu_tar() -> list[bytes]:
    """A file of six pieces, more than a header holds, in each of GNU tar's sparse formats."""
    found = []
    same_bytes = ["--blocking-factor=1", "--mtime=@1600000000", "--owner=0", "--group=0",
                  "--numeric-owner", "--mode=0644", "--hole-detection=raw"]  # fmt: skip
    posix = ["--format=posix", "--pax-option=exthdr.name=x,delete=atime,delete=ctime"]
    versions = ("0.0", "0.1", "1.0")
    forms = [["--format=gnu"], *([*posix, f"--sparse-version={one}"] for one in versions)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sparse")
        with path.open("wb") as file:
            for offset in range(1024, 1 << 14, 2560):
                file.seek(offset)
                file.write(b"data")
            file.truncate(1 << 15)
        for form in forms:
            command = ["tar", "--create", "--sparse", *form, *same_bytes, "--directory", folder]
            done = subprocess.run([*command, "sparse"], check=True, capture_output=True)
            same = re.sub(rb"GNUSparseFile\.\d+/sparse\0*", _without_pid, done.stdout)
            found.append(repaired(same))
    return found


def _without_pid(found: re.Match[bytes]) -> bytes:
    return b"GNUSparseFile.0/sparse".ljust(len(found[0]), b"\0")


def repaired(archive: bytes) -> bytes:
    """With the checksum that each header should have."""
    data = bytearray(archive)
    for start, _ in spans(archive):
        block = data[start : start + BLOCK]
        if len(block) == BLOCK and any(block):
            data[start : start + BLOCK] = with_checksum(block)
    return bytes(data)


def spans(archive: bytes) -> list[tuple[int, int]]:
    """Where members seem to begin and end: header, sparse map and body, or a block of zeros."""
    found = []
    at = 0
    while at < len(archive):
        kind, size, more = archive[at + 156 : at + 157], 0, 0
        if kind not in b"123456":
            size = _size(archive[at + 124 : at + 136])
        if kind == b"S" and archive[at + 482 : at + 483] == b"\1":
            more = _more_map_bytes(archive, at + BLOCK)
        end = min(at + BLOCK + more + -(-size // BLOCK) * BLOCK, len(archive))
        found.append((at, end))
        at = end
    return found


def _more_map_bytes(archive: bytes, at: int) -> int:
    """Of the blocks from at on that go on with an old GNU sparse map; each says if one follows."""
    size = BLOCK
    while archive[at + size - 8 : at + size - 7] == b"\1":
        size += BLOCK
    return size


def _size(field: bytes) -> int:
    digits = re.match(rb" *([0-7]+)", field)
    if digits:
        return int(digits[1], 8)
    return int.from_bytes(field[4:], "big") if field[:1] == b"\x80" else 0


def mutated(data: bytes, random: Random, blind: Mutate, max_bytes: int) -> bytes:
    if random.random() < 0.1:
        data = blind(data, max_bytes)
        return repaired(data) if random.random() < 0.7 else data
    parts = [data[start:end] for start, end in spans(data)]
    for _ in range(random.choice((1, 1, 2, 3))):
        _change(parts, random, blind)
    made = b"".join(parts)[:max_bytes]
    return repaired(made) if random.random() < 0.95 else made


def _change(parts: list[bytes], random: Random, blind: Mutate) -> None:
    """One step: a member more, less, elsewhere, or changed."""
    which = random.random()
    if not parts or which < 0.15:
        parts.insert(random.randint(0, len(parts)), _new(random))
        return
    at = random.randrange(len(parts))
    if which < 0.2:
        parts.insert(random.randint(0, len(parts)), parts[at])
    elif which < 0.25:
        del parts[at]
    elif which < 0.3:
        other = random.randrange(len(parts))
        parts[at], parts[other] = parts[other], parts[at]
    elif which > 0.98:
        parts[at] = parts[at][: random.randrange(len(parts[at]) + 1)]
    elif which > 0.65 and parts[at][156:157] in (b"x", b"g"):
        parts[at] = _records_changed(parts[at], random)
    elif which > 0.8 and len(parts[at]) > BLOCK:
        head, body = parts[at][:BLOCK], parts[at][BLOCK:]
        parts[at] = head + blind(body, len(body)).ljust(len(body), b"\0")
    elif any(parts[at][:BLOCK]):
        parts[at] = _field_changed(parts[at], random)


def _field_changed(part: bytes, random: Random) -> bytes:
    start, width = random.choice(_FIELDS)
    if width == 1:
        value = _type(random)
    elif start in (0, 157, 345):
        value = random.choice(_NAMES)
    else:
        value = _number(random, width)
    return part[:start] + value[:width].ljust(width, b"\0") + part[start + width :]


def _number(random: Random, width: int) -> bytes:
    which = random.random()
    if which < 0.1:
        return base256(random.choice(_ODD_NUMBERS), width)
    number = random.choice(_NUMBERS)
    if which < 0.2:
        return base256(number, width)
    if which < 0.25:
        return random.choice(
            [b"", b" 7 ", b"8", b"-1", b"0o7", b"1_0", b"\xff" * width, b"7" * width]
        )
    return b"%0*o" % (width - 1, number % (1 << (3 * width - 3)))


def _record(random: Random) -> bytes:
    made = record(random.choice(_KEYS), random.choice(_VALUES))
    which = random.random()
    if which < 0.9:
        return made
    digits, _, rest = made.partition(b" ")
    length = random.choice(
        [b"0", b"1", b"%d" % (int(digits) - 1), b"%d" % (int(digits) + 1), b"-5"]
    )
    return length + b" " + rest


def _records_changed(part: bytes, random: Random) -> bytes:
    """A PAX header with a record more, or with other ones, its size made right."""
    size = _size(part[124:136])
    old = part[BLOCK : BLOCK + size] if random.random() < 0.7 else b""
    new = b"".join(_record(random) for _ in range(random.randint(1, 3)))
    body = old + new if random.random() < 0.7 else new + old
    return member(b"pax", body, typeflag=part[156:157])


def _new(random: Random) -> bytes:
    which = random.random()
    name = random.choice(_NAMES)
    if which < 0.3:
        kind = random.choice((b"x", b"x", b"g"))
        return _records_changed(member(b"pax", b"", typeflag=kind), random)
    if which < 0.5:
        return long_name(name * random.choice((1, 3)), typeflag=random.choice((b"L", b"K")))
    if which < 0.6:
        return bytes(BLOCK)
    body = bytes(random.choice((0, 1, 511, 512, 513)))
    link = random.choice(_NAMES)
    return member(name or b"x", body, typeflag=_type(random), link=link or b"a", devminor=1)


def _type(random: Random) -> bytes:
    return bytes([random.choice(_TYPES if random.random() < 0.9 else _RARE_TYPES)])
