"""What one member is, by its header and the records before it. Pure functions.

An unknown member type is a regular file, as in GNU tar.

Source: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Extended Headers".
"""

from collections.abc import Mapping

from clipfs import errors
from clipfs.layer.archive import header, pax
from clipfs.layer.archive.header import Header
from clipfs.layer.archive.names import normalised, shown
from clipfs.layer.index import Entry, EntryKind
from clipfs.layer.limits import MAX_PATH_BYTES

_KINDS = {
    b"1": EntryKind.HARDLINK,
    b"2": EntryKind.SYMLINK,
    b"3": EntryKind.CHARACTER,
    b"4": EntryKind.BLOCK,
    b"5": EntryKind.DIRECTORY,
    b"6": EntryKind.FIFO,
}
_DUMPS = frozenset((b"D", b"M", b"N", b"V"))

Attributes = Mapping[bytes, bytes]
"""PAX records that hold for one member."""


def first_of(pax_name: bytes | None, long_name: bytes | None, short_name: bytes) -> bytes:
    """The name that holds: PAX before GNU before the header's own."""
    if pax_name is not None:
        return pax_name
    return short_name if long_name is None else long_name


def kind_of(typeflag: bytes, name: bytes) -> EntryKind:
    """UnsupportedImage if it is part of a dump. SPARSE is never told by this."""
    if typeflag in _DUMPS:
        raise errors.UnsupportedImage(
            f"tar: {shown(name)} is of kind {typeflag.decode()}, which GNU tar makes of "
            "incremental, labelled or multi-volume dumps; make the layer anew, without those"
        )
    kind = _KINDS.get(typeflag, EntryKind.FILE)
    if typeflag == b"\0" and name.endswith(b"/"):
        return EntryKind.DIRECTORY  # as archives older than POSIX say it
    return kind


def entry_of(
    head: Header,
    attributes: Attributes,
    kind: EntryKind,
    name: bytes,
    link: bytes,
    body_bytes: int,
    offset: int,
) -> Entry:
    """The entry of a member whose body, of body_bytes, stands at offset of the payload."""
    is_device = kind in (EntryKind.CHARACTER, EntryKind.BLOCK)
    major, minor = head.device() if is_device else (0, 0)
    seconds, ns = header.number(head.mtime, "mtime"), 0
    if b"mtime" in attributes:
        seconds, ns = pax.time_of(attributes[b"mtime"])
    return Entry(
        path=normalised(name),
        kind=kind,
        mode=header.number(head.mode, "mode") & 0o7777,
        uid=_owner(b"uid", head.uid, attributes),
        gid=_owner(b"gid", head.gid, attributes),
        mtime_s=seconds,
        mtime_ns=ns,
        size=body_bytes,
        payload_offset=offset if body_bytes else 0,
        target=_target(kind, name, link),
        rdev_major=major,
        rdev_minor=minor,
        xattrs=pax.xattrs_of(attributes) if attributes else (),
    )


def _target(kind: EntryKind, name: bytes, link: bytes) -> bytes:
    if kind == EntryKind.HARDLINK:
        return normalised(link)
    if kind != EntryKind.SYMLINK:
        return b""
    if not link or len(link) > MAX_PATH_BYTES or b"\0" in link:
        raise errors.CorruptImage(f"tar: {shown(name)}: not a symlink's target: {shown(link)}")
    return link


def _owner(key: bytes, field: bytes, attributes: Attributes) -> int:
    stated = attributes.get(key)
    value = header.number(field, "owner") if stated is None else pax.number_of(key, stated)
    if not 0 <= value < 1 << 32:
        raise errors.CorruptImage(f"tar: {key.decode()} {value} is not a 32-bit id")
    return value
