"""What Python's own tar reader says of an archive: its blocks one by one, under our end mark."""

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

from clipfs.layer.index import Entry, EntryKind
from clipfs.layer.sparse import SparseMap
from tests.fuzz.judge import expect_same

BLOCK = 512
_KINDS = {
    tarfile.DIRTYPE: EntryKind.DIRECTORY,
    tarfile.SYMTYPE: EntryKind.SYMLINK,
    tarfile.LNKTYPE: EntryKind.HARDLINK,
    tarfile.CHRTYPE: EntryKind.CHARACTER,
    tarfile.BLKTYPE: EntryKind.BLOCK,
    tarfile.FIFOTYPE: EntryKind.FIFO,
}


class Member(NamedTuple):
    """What both readers say of a member.

    time  None where it has a fraction
    runs  offset and length of a sparse file's data, None of another; no run ends where the next
          begins, none is empty
    """

    path: bytes
    kind: EntryKind
    size: int
    offset: int
    target: bytes
    mode: int
    owner: tuple[int, int]
    time: int | None
    device: tuple[int, int]
    runs: list[tuple[int, int]] | None


class _Info(tarfile.TarInfo):
    """Notes which records stood before a member, the last first; S: it is one of GNU's own sparse
    ones, B: with runs behind a blank one."""

    sorts = ""

    def _proc_gnulong(self, archive: tarfile.TarFile) -> Self:
        start = archive.fileobj.tell()
        body = archive.fileobj.read(-(-self.size // BLOCK) * BLOCK)
        archive.fileobj.seek(start)
        found = super()._proc_gnulong(archive)  # type: ignore[misc] # not in its stub
        found.sorts += self.type.decode() + ("X" if any(body[self.size :]) else "")
        return found  # type: ignore[no-any-return]

    def _proc_pax(self, archive: tarfile.TarFile) -> Self:
        found = super()._proc_pax(archive)  # type: ignore[misc] # not in its stub
        found.sorts += self.type.decode()
        return found  # type: ignore[no-any-return]

    def _proc_sparse(self, archive: tarfile.TarFile) -> Self:
        start = archive.fileobj.tell() - BLOCK
        found = super()._proc_sparse(archive)  # type: ignore[misc] # not in its stub
        length = archive.fileobj.tell() - start
        archive.fileobj.seek(start)
        first, *others = (archive.fileobj.read(BLOCK) for _ in range(length // BLOCK))
        maps = [first[386:482], *(one[:504] for one in others)]
        found.sorts += "SB" if any(map(_goes_on_behind_a_blank, maps)) else "S"
        return found  # type: ignore[no-any-return]


def _goes_on_behind_a_blank(runs: bytes) -> bool:
    fields = [runs[at : at + 12] for at in range(0, len(runs), 12)]
    blank = next((n for n, field in enumerate(fields) if not field[0]), len(fields))
    return any(map(any, fields[blank - blank % 2 :][2:]))


def begins(data: bytes) -> bool:
    """Whether the first header has its right checksum."""
    block = data[:BLOCK]
    if len(block) < BLOCK or not any(block):
        return False
    try:
        return tarfile.nti(block[148:156]) in tarfile.calc_chksums(block)  # type: ignore[attr-defined] # not in its stub
    except tarfile.HeaderError:
        return False


def members(data: bytes) -> list[Member] | None:
    """None if `tarfile` refuses data, or means something else by what it holds."""
    archive = tarfile.TarFile(
        fileobj=io.BytesIO(bytes(2 * BLOCK)), tarinfo=_Info, encoding="utf-8",
        errors="surrogateescape",
    )  # fmt: skip
    archive.fileobj = io.BytesIO(data)
    archive.offset = 0
    found: list[Member] = []
    zero_blocks = 0
    while zero_blocks < 2 and archive.offset < len(data):
        archive.fileobj.seek(archive.offset)
        try:
            info = _Info.fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # not in its stub
            zero_blocks += 1
            archive.offset += BLOCK
            continue
        except (tarfile.TarError, ValueError, OverflowError):
            return None
        zero_blocks = 0
        if _is_other(info, data) or "size" in archive.pax_headers:
            return None
        if "S" in info.sorts and archive.pax_headers:
            return None  # on which global records are lost, too
        if not (info.type == tarfile.CHRTYPE and info.devmajor == info.devminor == 0):
            found.append(_member(info))
    return found


def compare(entries: Sequence[Entry], sparse: Sequence[SparseMap], found: Sequence[Member]) -> None:
    maps = {one.payload_offset: one for one in sparse}
    for entry, member in zip(entries, found, strict=False):
        ours = Member(
            path=entry.path,
            kind=entry.kind,
            size=entry.size,
            offset=entry.payload_offset,
            target=entry.target,
            mode=entry.mode,
            owner=(entry.uid, entry.gid),
            time=None if member.time is None else entry.mtime_s,
            device=(entry.rdev_major, entry.rdev_minor),
            runs=_runs_of(entry, maps),
        )
        expect_same(ours, member, "a member, and the same by tarfile")
    expect_same(len(entries), len(found), "members, and the same by tarfile")


def _is_other(info: _Info, data: bytes) -> bool:
    """Where the two readers are known to differ.

    Old GNU headers keep times where ustar has its prefix. Of two records that give a name, here
    PAX's stands above GNU's and the last above the first; there the order decides. Global records
    between others or before GNU's own sparse members, and a global size, are lost on it. What it
    makes of X, of records with an empty value or in another charset, of a long name that is not
    padded with NULs, and of runs behind a blank one, is its own; so is which name, or a prefix
    alone, says that an old file is a folder, and whether a sparse file's name or size stands above
    its placeholder's.
    """
    header = data[info.offset_data - BLOCK : info.offset_data]
    ends_in_slash = info.name.endswith("/") or header[:100].partition(b"\0")[0].endswith(b"/")
    names = {"path", "linkpath", "GNU.sparse.name"}
    is_sparse = any(key.startswith("GNU.sparse.") for key in info.pax_headers)
    return bool(
        (header[257:263] != b"ustar\0" and any(header[345:500]))
        or (not names.isdisjoint(info.pax_headers) and not {"L", "K"}.isdisjoint(info.sorts))
        or any(info.sorts.count(sort) > 1 for sort in "xLK")
        or ("g" in info.sorts and info.sorts.strip("g"))
        or not {"X", "B"}.isdisjoint(info.sorts)
        or (is_sparse and not {"path", "size"}.isdisjoint(info.pax_headers))
        or "" in info.pax_headers.values()
        or "hdrcharset" in info.pax_headers
        or (header[156:157] == b"\0" and (ends_in_slash or not info.name) and info.sorts)
        or (header[156:157] == b"\0" and not header[0])
    )


def _runs_of(entry: Entry, maps: Mapping[int, SparseMap]) -> list[tuple[int, int]] | None:
    if entry.kind != EntryKind.SPARSE:
        return None
    if not entry.payload_offset:
        return []
    return [(one.offset, one.length) for one in maps[entry.payload_offset].extents()]


def _joined(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for offset, length in runs:
        if found and sum(found[-1]) == offset:
            found[-1] = (found[-1][0], found[-1][1] + length)
        elif length:
            found.append((offset, length))
    return found


def _member(info: _Info) -> Member:
    kind = _KINDS.get(info.type, EntryKind.FILE)
    is_device = kind in (EntryKind.CHARACTER, EntryKind.BLOCK)
    size = info.size if kind == EntryKind.FILE else 0
    runs = _joined(info.sparse) if info.issparse() else None  # type: ignore[arg-type] # its stub says bytes
    if runs is not None and sum(length for _, length in runs) == size:
        runs = None  # a map without holes
    elif runs is not None:
        kind = EntryKind.SPARSE
    target = b""
    if kind == EntryKind.SYMLINK:
        target = _bytes(info.linkname)
    elif kind == EntryKind.HARDLINK:
        target = _collapsed(info.linkname)
    return Member(
        path=_collapsed(info.name),
        kind=kind,
        size=size,
        offset=info.offset_data if size and runs != [] else 0,
        target=target,
        mode=info.mode & 0o7777,
        owner=(info.uid, info.gid),
        time=None if "mtime" in info.pax_headers else int(info.mtime),
        device=(info.devmajor, info.devminor) if is_device else (0, 0),
        runs=runs,
    )


def _collapsed(name: str) -> bytes:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return _bytes("/".join(parts))


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
