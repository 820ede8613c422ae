"""Defects to be planted in the product, each behind a first check, for the fuzzers to find."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """In module, old becomes new; found  a word of what target must find then."""

    name: str
    target: str
    module: str
    old: str
    new: str
    found: str


TAR, MEMBER, PAX = (
    "clipfs.layer.archive.tar",
    "clipfs.layer.archive.member",
    "clipfs.layer.archive.pax",
)
CODEC = "clipfs.layer.codec"
READER, FOLDER = "clipfs.tree.reader", "clipfs.tree.folder"
HEAD = "clipfs.content.head"
CONNECTION = "clipfs.content.connection"
HOT = "clipfs.content.hot"
CHUNKS, XATTRS = "clipfs.tree.chunk_table", "clipfs.tree.xattrs"
PLANTED = [
    Planted(
        name="tar-a-long-link-stays-for-the-next-member",
        target="tar",
        module=TAR,
        old="self._long_name = self._long_link = None\n        reader",
        new="self._long_name = None\n        reader",
        found="by tarfile",
    ),
    Planted(
        name="tar-an-owner-may-have-more-than-32-bits",
        target="tar",
        module=MEMBER,
        old="if not 0 <= value < 1 << 32:",
        new="if value < 0:",
        found="an owner out of range",
    ),
    Planted(
        name="tar-a-file-that-ends-in-a-slash-is-a-folder",
        target="tar",
        module=MEMBER,
        old='if typeflag == b"\\0" and name',
        new='if typeflag in (b"0", b"\\0") and name',
        found="by tarfile",
    ),
    Planted(
        name="tar-base64-that-is-none-is-not-caught",
        target="tar",
        module=PAX,
        old="except (binascii.Error, ValueError) as error:",
        new="except KeyError as error:",
        found="binascii.Error",
    ),
    Planted(
        name="erofs-a-folder-may-reach-beyond-the-image",
        target="erofs",
        module=READER,
        old="if start + raw.size > self._size:",
        new="if start > self._size:",
        found="a read of",
    ),
    Planted(
        name="erofs-a-files-bytes-may-lie-beyond-its-layer",
        target="erofs",
        module=CHUNKS,
        old="if offset + size > device_bytes[device - 1]:",
        new="if offset > device_bytes[device - 1]:",
        found="content beyond its device",
    ),
    Planted(
        name="erofs-the-first-name-may-lie-beyond-its-block",
        target="erofs",
        module=FOLDER,
        old="if rest or not number or offset > len(block):",
        new="if rest or not number:",
        found="struct.error",
    ),
    Planted(
        name="erofs-an-xattrs-prefix-is-not-checked",
        target="erofs",
        module=XATTRS,
        old="if prefix not in erofs.XATTR_PREFIX_OF or end > len(area):",
        new="if end > len(area):",
        found="KeyError",
    ),
    Planted(
        name="codec-a-zstd-error-is-not-caught",
        target="codec",
        module=CODEC,
        old="except zstandard.ZstdError as error:",
        new="except KeyError as error:",
        found="ZstdError",
    ),
    Planted(
        name="codec-a-header-that-grows-past-the-first-feed-is-cut",
        target="codec",
        module=CODEC,
        old="feed_bytes = max(FIRST_FEED_BYTES, _header_bytes(source))",
        new="feed_bytes = min(FIRST_FEED_BYTES, _header_bytes(source))",
        found="Broken",
    ),
    Planted(
        name="codec-reserved-flags-are-not-refused",
        target="codec",
        module=CODEC,
        old="head[_FLAGS_AT] & _RESERVED_FLAGS",
        new="head[_FLAGS_AT] & 0",
        found="the other decoder",
    ),
    Planted(
        name="codec-one-byte-of-garbage-is-not-warned-of",
        target="codec",
        module=CODEC,
        old="while magic := source.peek(len(_GZIP)):",
        new="while len(magic := source.peek(len(_GZIP))) == len(_GZIP):",
        found="warnings",
    ),
    Planted(
        name="codec-a-gzip-bomb-is-inflated-at-once",
        target="codec",
        module=CODEC,
        old="member.decompress(data, PIECE_BYTES)",
        new="member.decompress(data)",
        found="a piece of a wrong size",
    ),
    Planted(
        name="head-a-request-without-a-host-is-plain",
        target="head",
        module=HEAD,
        old=' or b"host" not in headers',
        new="",
        found="h11 does not read it",
    ),
    Planted(
        name="head-a-header-that-comes-twice-is-plain",
        target="head",
        module=HEAD,
        old="len(headers) != len(lines) or ",
        new="",
        found="Broken",
    ),
    Planted(
        name="head-a-connection-that-is-to-close-is-kept",
        target="head",
        module=HEAD,
        old='b"connection",\n',
        new='b"proxy-authenticate",\n',
        found="or is the last one",
    ),
    Planted(
        name="connection-a-malformed-head-after-a-HEAD-is-answered-as-that",
        target="connection",
        module=CONNECTION,
        old='self._method, self._without_body = "", False',
        new='self._method = ""',
        found="LocalProtocolError",
    ),
    Planted(
        name="connection-a-range-may-reach-beyond-an-open-file",
        target="connection",
        module=HOT,
        old="if not first <= last < opened.size:",
        new="if not first <= last:",
        found="Broken",
    ),
    Planted(
        name="connection-an-open-file-is-read-without-a-token",
        target="connection",
        module=HOT,
        old='            or not self._tokens.rights(headers.get(b"authorization")).read\n',
        new="",
        found="done without a token",
    ),
]
HANG = Planted(
    name="tar-a-pax-record-of-no-length-is-read-for-ever",
    target="tar",
    module=PAX,
    old='if end > len(body) or equals < 0 or body[end - 1 : end] != b"\\n":',
    new="if end > len(body):",
    found="libFuzzer: timeout-",
)
GROWTH = Planted(
    name="tar-a-pax-record-of-no-length-is-kept-for-ever",
    target="tar",
    module=PAX,
    old='        if end > len(body) or equals < 0 or body[end - 1 : end] != b"\\n":\n',
    new='        found.append((b"", bytes(1 << 20)))\n        if end > len(body):\n',
    found="libFuzzer: oom-",
)
