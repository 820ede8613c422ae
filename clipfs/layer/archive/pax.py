"""PAX extended headers: a body of records in, what they say of one member out.

Source: POSIX.1-2017 pax, "pax Extended Header"; SCHILY.xattr from star; LIBARCHIVE.xattr
(URL-encoded name, base64 value) from libarchive.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from clipfs import errors
from clipfs.layer.limits import MAX_XATTR_BYTES

KEPT_XATTRS = (b"user.",)
KEPT_XATTR_NAMES = frozenset(
    (b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default")
)
_SCHILY, _LIBARCHIVE = b"SCHILY.xattr.", b"LIBARCHIVE.xattr."
_NS = 1_000_000_000
_PLAIN_TIME = re.compile(rb"([0-9]{1,18})\.([0-9]{1,9})")
"""As nearly every member has it; 18 digits fit 63 bits."""

_MAX_DIGITS = 20  # of a number that fits 64 bits


Record = tuple[bytes, bytes]


def records(body: bytes) -> list[Record]:
    """Key and value of each, in their order; CorruptImage if a record's length is a lie.

    Of a key that comes again the last value holds, but for sparse maps (`clipfs.layer.sparse`).
    """
    found: list[Record] = []
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 20)
        if space < 0 or not body[at:space].isdigit():
            raise errors.CorruptImage("tar: a PAX record does not begin with its length")
        end = at + int(body[at:space])
        equals = body.find(b"=", space, end)
        if end > len(body) or equals < 0 or body[end - 1 : end] != b"\n":
            raise errors.CorruptImage("tar: a PAX record is not as long as it says")
        found.append((body[space + 1 : equals], body[equals + 1 : end - 1]))
        at = end
    return found


def merged(common: Mapping[bytes, bytes], own: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """What holds for one member: its own records before global ones.

    An empty value takes a record away, so that the header's own field holds; that of an xattr
    is an xattr's empty value, as GNU tar writes it.
    """
    found = {**common, **own}
    if b"" in found.values():
        return {key: value for key, value in found.items() if value or b".xattr." in key}
    return found


def time_of(value: bytes) -> tuple[int, int]:
    """b"-1.5" -> (-2, 500_000_000): seconds rounded down, nanoseconds from there."""
    plain = _PLAIN_TIME.fullmatch(value)
    if plain is not None:
        return int(plain[1]), int(plain[2].ljust(9, b"0"))
    text = value.decode("ascii", "replace").strip()
    sign = -1 if text.startswith("-") else 1
    whole, _, fraction = text.lstrip("+-").partition(".")
    if not (whole + fraction).isdecimal() or len(whole) > _MAX_DIGITS:
        raise errors.CorruptImage(f"tar: {text[:40]!r} is not a PAX time")
    total_ns = sign * (int(whole or 0) * _NS + int(fraction[:9].ljust(9, "0")))
    seconds, ns = divmod(total_ns, _NS)
    if not -(1 << 63) <= seconds < 1 << 63:
        raise errors.CorruptImage(f"tar: the PAX time {text[:40]} is out of range")
    return seconds, ns


def number_of(key: bytes, value: bytes) -> int:
    """A record's whole number, not below 0; CorruptImage names its key if it is none."""
    text = value.decode("ascii", "replace").strip()
    if not text.isdecimal() or len(text) > _MAX_DIGITS:
        raise errors.CorruptImage(f"tar: PAX {key.decode()} {text[:40]!r} is not a number")
    return int(text)


def xattrs_of(found: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """The xattrs that are kept, sorted by name: user.*, capabilities and POSIX ACLs."""
    kept: dict[bytes, bytes] = {}
    for key, value in found.items():
        if key.startswith(_LIBARCHIVE):
            name = unquote_to_bytes(key[len(_LIBARCHIVE) :])
            if _is_kept(name):
                kept.setdefault(name, _unbase64(name, value))
        elif key.startswith(_SCHILY):
            name = key[len(_SCHILY) :]
            if _is_kept(name):
                kept[name] = value
    if not kept:
        return ()
    if sum(len(name) + len(value) for name, value in kept.items()) > MAX_XATTR_BYTES:
        raise errors.CorruptImage(f"tar: a member has over {MAX_XATTR_BYTES} bytes of xattrs")
    return tuple(sorted(kept.items()))


def _is_kept(name: bytes) -> bool:
    if len(name) > 255 or b"\0" in name:
        return False
    return (name.startswith(KEPT_XATTRS) and name not in KEPT_XATTRS) or name in KEPT_XATTR_NAMES


def _unbase64(name: bytes, value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise errors.CorruptImage(f"tar: xattr {name!r} is not base64") from error
