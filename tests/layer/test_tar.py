"""What one layer's tar says: names, numbers, times, xattrs, kinds and offsets."""

import pytest

from clipfs.layer.index import EntryKind
from tests.layer.tars import END, base256, entries_of, long_name, member, only, records

LONG = b"/".join([b"component-%02d" % number for number in range(30)])
XATTR = b"SCHILY.xattr."


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        pytest.param(member(b"./a/b"), b"a/b", id="dot-slash"),
        pytest.param(member(b"/a//b"), b"a/b", id="absolute"),
        pytest.param(member(b"a/./b/../c"), b"a/c", id="dots-inside"),
        pytest.param(member(b"./", typeflag=b"5"), b"", id="root"),
        pytest.param(member(b"d/", typeflag=b"5"), b"d", id="folder"),
        pytest.param(member(b"b", prefix=b"long/prefix"), b"long/prefix/b", id="ustar-prefix"),
        pytest.param(
            member(b"b", prefix=b"14000000000", magic=b"ustar  \0"),
            b"b",
            id="old-gnu-has-times-there",
        ),
        pytest.param(member(b"n" * 100), b"n" * 100, id="name-without-a-nul"),
        pytest.param(long_name(LONG) + member(LONG[:100]), LONG, id="gnu-long-name"),
        pytest.param(records({b"path": LONG}) + member(b"x"), LONG, id="pax-long-name"),
        pytest.param(
            long_name(b"gnu") + records({b"path": b"pax"}) + member(b"x"), b"pax", id="pax-over-gnu"
        ),
        pytest.param(
            records({b"path": b"own"}, typeflag=b"X") + member(b"x"), b"own", id="solaris-pax"
        ),
        pytest.param(
            records({b"path": b"old"}) + records({b"path": b"new"}) + member(b"x"),
            b"new",
            id="two-pax-headers",
        ),
        pytest.param(records({b"path": b""}) + member(b"x"), b"x", id="empty-pax-name-is-none"),
        pytest.param(member(b"caf\xe9/\xff\xfe"), b"caf\xe9/\xff\xfe", id="not-utf-8"),
        pytest.param(
            records({b"path": b"\xff\xe9", b"hdrcharset": b"BINARY"}) + member(b"x"),
            b"\xff\xe9",
            id="not-utf-8-in-pax",
        ),
        pytest.param(member(b"..."), b"...", id="three-dots-are-a-name"),
    ],
)
def test_a_name_is_its_raw_bytes_normalised(payload: bytes, path: bytes) -> None:
    assert only(payload + END).path == path


@pytest.mark.parametrize(
    ("payload", "mtime"),
    [
        pytest.param(member(mtime=0), (0, 0), id="epoch"),
        pytest.param(member(mtime=b"1234567 "), (0o1234567, 0), id="ends-with-a-blank"),
        pytest.param(member(mtime=b" 1234567\0"), (0o1234567, 0), id="begins-with-a-blank"),
        pytest.param(member(mtime=b""), (0, 0), id="blank-is-zero"),
        pytest.param(member(mtime=base256(1 << 40, 12)), (1 << 40, 0), id="base-256"),
        pytest.param(member(mtime=base256(-1, 12)), (-1, 0), id="base-256-negative"),
        pytest.param(member(mtime=base256(-(1 << 40), 12)), (-(1 << 40), 0), id="far-past"),
        pytest.param(
            records({b"mtime": b"1700000000.123456789"}) + member(),
            (1700000000, 123456789),
            id="pax-nanoseconds",
        ),
        pytest.param(
            records({b"mtime": b"1.1234567899"}) + member(), (1, 123456789), id="more-is-cut"
        ),
        pytest.param(records({b"mtime": b"-1.5"}) + member(), (-2, 500000000), id="pax-negative"),
        pytest.param(records({b"mtime": b"-0.25"}) + member(), (-1, 750000000), id="just-before-0"),
        pytest.param(records({b"mtime": b".5"}) + member(), (0, 500000000), id="no-digit-before"),
        pytest.param(records({b"mtime": b""}) + member(mtime=7), (7, 0), id="empty-pax-is-none"),
    ],
)
def test_times_keep_nanoseconds_and_may_be_negative(payload: bytes, mtime: tuple[int, int]) -> None:
    found = only(payload + END)
    assert (found.mtime_s, found.mtime_ns) == mtime


@pytest.mark.parametrize(
    ("payload", "owner"),
    [
        pytest.param(member(uid=1000, gid=0o7777777), (1000, 0o7777777), id="octal"),
        pytest.param(
            member(uid=base256(3_000_000_000, 8), gid=base256(4_294_967_295, 8)),
            (3_000_000_000, 4_294_967_295),
            id="base-256",
        ),
        pytest.param(
            records({b"uid": b"4000000000", b"gid": b"5"}) + member(uid=1, gid=1),
            (4_000_000_000, 5),
            id="pax",
        ),
    ],
)
def test_owners_are_32_bit_numbers(payload: bytes, owner: tuple[int, int]) -> None:
    found = only(payload + END)
    assert (found.uid, found.gid) == owner


def test_a_file_whose_name_ends_in_a_slash_keeps_its_body_to_itself() -> None:
    """Found by tests.fuzz: taken for a folder, it had its body read as further members.

    A file, as Go's reader has it, and so containerd and umoci; GNU tar passes over the body too.
    """
    inner = member(b"smuggled", b"x")
    found = entries_of(member(b"d/", inner) + member(b"after") + END)
    assert [(one.path, one.kind, one.size) for one in found] == [
        (b"d", EntryKind.FILE, len(inner)),
        (b"after", EntryKind.FILE, 0),
    ]


def test_setuid_setgid_and_sticky_stay_and_file_type_bits_go() -> None:
    assert only(member(mode=0o107755) + END).mode == 0o7755


@pytest.mark.parametrize(
    ("payload", "entry"),
    [
        pytest.param(member(typeflag=b"\0"), (EntryKind.FILE, b"", 0, 0), id="v7-file"),
        pytest.param(member(typeflag=b"7"), (EntryKind.FILE, b"", 0, 0), id="contiguous-file"),
        pytest.param(member(typeflag=b"Z"), (EntryKind.FILE, b"", 0, 0), id="unknown-kind-is-file"),
        pytest.param(
            member(b"f/", typeflag=b"\0"), (EntryKind.DIRECTORY, b"", 0, 0), id="v7-folder"
        ),
        pytest.param(
            member(typeflag=b"5", size=4096),
            (EntryKind.DIRECTORY, b"", 0, 0),
            id="folder-with-size",
        ),
        pytest.param(
            member(typeflag=b"2", link=b"../x//y"),
            (EntryKind.SYMLINK, b"../x//y", 0, 0),
            id="symlink",
        ),
        pytest.param(
            long_name(LONG, typeflag=b"K") + member(typeflag=b"2", link=b"x"),
            (EntryKind.SYMLINK, LONG, 0, 0),
            id="gnu-long-symlink",
        ),
        pytest.param(
            records({b"linkpath": LONG}) + member(typeflag=b"2", link=b"x"),
            (EntryKind.SYMLINK, LONG, 0, 0),
            id="pax-long-symlink",
        ),
        pytest.param(
            member(typeflag=b"1", link=b"./a/../b"),
            (EntryKind.HARDLINK, b"b", 0, 0),
            id="hard-link",
        ),
        pytest.param(
            member(typeflag=b"1", link=b"b", size=4096),
            (EntryKind.HARDLINK, b"b", 0, 0),
            id="hard-link-with-size",
        ),
        pytest.param(
            member(typeflag=b"3", devmajor=4095, devminor=(1 << 20) - 1),
            (EntryKind.CHARACTER, b"", 4095, (1 << 20) - 1),
            id="character-device",
        ),
        pytest.param(
            member(typeflag=b"4", devmajor=8, devminor=1), (EntryKind.BLOCK, b"", 8, 1), id="block"
        ),
        pytest.param(member(typeflag=b"4"), (EntryKind.BLOCK, b"", 0, 0), id="block-0:0-stays"),
        pytest.param(member(typeflag=b"6"), (EntryKind.FIFO, b"", 0, 0), id="fifo"),
    ],
)
def test_kinds(payload: bytes, entry: tuple[EntryKind, bytes, int, int]) -> None:
    found = only(payload + END)
    assert (found.kind, found.target, found.rdev_major, found.rdev_minor) == entry
    assert (found.path, found.size, found.payload_offset) == (b"f", 0, 0)


def test_a_character_device_0_0_is_dropped_and_the_next_member_is_read() -> None:
    payload = member(b"gone", typeflag=b"3") + member(b"here", b"body") + END
    assert [entry.path for entry in entries_of(payload)] == [b"here"]


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        pytest.param({XATTR + b"user.a": b"1\0\n="}, [(b"user.a", b"1\0\n=")], id="schily-user"),
        pytest.param({XATTR + b"user.empty": b""}, [(b"user.empty", b"")], id="empty-value"),
        pytest.param(
            {b"LIBARCHIVE.xattr.user.a%3Db": b"AP8"}, [(b"user.a=b", b"\x00\xff")], id="libarchive"
        ),
        pytest.param(
            {XATTR + b"user.a": b"schily", b"LIBARCHIVE.xattr.user.a": b"bGli"},
            [(b"user.a", b"schily")],
            id="both-say-the-same-once",
        ),
        pytest.param(
            {XATTR + b"security.capability": b"\1\0\0\2\0\x20\0\0" + bytes(12)},
            [(b"security.capability", b"\1\0\0\2\0\x20\0\0" + bytes(12))],
            id="capability-byte-exact",
        ),
        pytest.param(
            {
                XATTR + b"system.posix_acl_default": b"d",
                XATTR + b"system.posix_acl_access": b"a",
            },
            [(b"system.posix_acl_access", b"a"), (b"system.posix_acl_default", b"d")],
            id="acls-sorted-by-name",
        ),
        pytest.param(
            {
                XATTR + name: b"x"
                for name in (
                    b"trusted.overlay.opaque",
                    b"security.selinux",
                    b"security.ima",
                    b"user.",
                    b"system.other",
                    b"user." + b"n" * 251,
                )
            },
            [],
            id="everything-else-is-dropped",
        ),
        pytest.param({b"comment": b"c", b"atime": b"nonsense"}, [], id="other-records-are-ignored"),
    ],
)
def test_xattrs(attributes: dict[bytes, bytes], kept: list[tuple[bytes, bytes]]) -> None:
    assert only(records(attributes) + member() + END).xattrs == tuple(kept)


def test_a_global_header_holds_for_all_members_until_one_says_otherwise() -> None:
    payload = records({b"uid": b"7", b"mtime": b"5", b"comment": b"git"}, typeflag=b"g")
    payload += member(b"a", uid=1) + records({b"uid": b"8", b"mtime": b""}) + member(b"b", mtime=9)
    payload += records({b"uid": b"6"}, typeflag=b"g") + member(b"c", uid=1)
    found = [(entry.path, entry.uid, entry.mtime_s) for entry in entries_of(payload + END)]
    assert found == [(b"a", 7, 5), (b"b", 8, 9), (b"c", 6, 5)]


def test_records_hold_for_one_member_only() -> None:
    payload = long_name(b"x" * 200) + records({b"uid": b"7", XATTR + b"user.a": b"1"})
    found = entries_of(payload + member(b"a") + member(b"b") + END)
    assert [(entry.path, entry.uid, len(entry.xattrs)) for entry in found] == [
        (b"x" * 200, 7, 1),
        (b"b", 0, 0),
    ]


def test_a_pax_size_says_where_the_next_member_is() -> None:
    payload = records({b"size": b"700"}) + member(b"a", bytes(700), size=0) + member(b"b") + END
    assert [(e.path, e.size, e.payload_offset) for e in entries_of(payload)] == [
        (b"a", 700, 1536),
        (b"b", 0, 0),
    ]


def test_a_header_may_have_the_checksum_of_historic_tars() -> None:
    assert only(member(b"caf\xe9", signed_sum=True) + END).path == b"caf\xe9"
