"""What a tar may not say: each is refused by name, before it costs memory or time."""

import pytest

from clipfs import errors
from clipfs.layer.archive import tar
from clipfs.layer.limits import (
    MAX_DEPTH,
    MAX_GLOBAL_HEADER_BYTES,
    MAX_HEADER_BYTES,
    MAX_PATH_BYTES,
    MAX_XATTR_BYTES,
)
from tests.layer.tars import END, base256, entries_of, long_name, member, only, records

XATTR = b"SCHILY.xattr."


def named(name: bytes) -> bytes:
    return records({b"path": name}) + member()


def said(**fields: str) -> bytes:
    return records({key.encode(): value.encode() for key, value in fields.items()}) + member()


def broken_record(body: bytes) -> bytes:
    return member(b"pax", body, typeflag=b"x") + member()


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        pytest.param(member(b"../x"), "leaves the root", id="name-above-the-root"),
        pytest.param(member(b"a/../../x"), "leaves the root", id="name-above-the-root-later"),
        pytest.param(member(typeflag=b"1", link=b"../x"), "leaves the root", id="link-above"),
        pytest.param(named(b"a\0b"), "NUL", id="nul-in-a-name"),
        pytest.param(named(b"n" * 256), "over 255", id="component-too-long"),
        pytest.param(named(b"a/" * MAX_DEPTH + b"f"), "folders deep", id="too-deep"),
        pytest.param(
            named((b"n" * 127 + b"/") * 31 + b"n" * 128), "4096 bytes, more", id="name-too-long"
        ),
        pytest.param(member(b""), "without a name", id="no-name"),
        pytest.param(long_name(b"") + member(), "without a name", id="empty-long-name"),
        pytest.param(member(typeflag=b"2"), "target", id="symlink-to-nothing"),
        pytest.param(
            records({b"linkpath": b"t" * (MAX_PATH_BYTES + 1)}) + member(typeflag=b"2"),
            "target",
            id="symlink-too-long",
        ),
        pytest.param(
            records({b"linkpath": b"a\0b"}) + member(typeflag=b"2"), "target", id="nul-in-a-target"
        ),
        pytest.param(member()[:100] + b"x" + member()[101:], "checksum", id="wrong-checksum"),
        pytest.param(b"not a tar archive, but long enough" * 20, "number", id="no-tar"),
        pytest.param(member(mode=b"9999999\0"), "not a number", id="digit-9"),
        pytest.param(member(mode=b"0o00644\0"), "not a number", id="python-prefix"),
        pytest.param(member(mode=b"-000644\0"), "not a number", id="octal-with-a-sign"),
        pytest.param(member(mode=b"00_0644\0"), "not a number", id="underscore"),
        pytest.param(member(size=base256(-1, 12)), "-1 bytes", id="negative-size"),
        pytest.param(member(size=base256(1 << 41, 12)), "bytes", id="body-too-long"),
        pytest.param(member(size=base256(1 << 70, 12)), "out of range", id="size-over-64-bits"),
        pytest.param(
            member(typeflag=b"x", size=base256(-512, 12)), "-512", id="record-of-negative-size"
        ),
        pytest.param(member(mtime=base256(1 << 63, 12)), "out of range", id="time-over-64-bits"),
        pytest.param(member(uid=base256(-1, 8)), "32-bit", id="negative-owner"),
        pytest.param(member(gid=base256(1 << 32, 8)), "32-bit", id="owner-over-32-bits"),
        pytest.param(said(uid="-1"), "not a number", id="pax-owner-negative"),
        pytest.param(said(gid="4294967296"), "32-bit", id="pax-owner-over-32-bits"),
        pytest.param(said(size="1e3"), "not a number", id="pax-size-no-number"),
        pytest.param(said(size="9" * 5000), "not a number", id="pax-size-of-5000-digits"),
        pytest.param(said(mtime="yesterday"), "not a PAX time", id="pax-time-no-number"),
        pytest.param(said(mtime="."), "not a PAX time", id="pax-time-only-a-point"),
        pytest.param(said(mtime="9" * 5000), "not a PAX time", id="pax-time-of-5000-digits"),
        pytest.param(said(mtime="9" * 19), "out of range", id="pax-time-over-64-bits"),
        pytest.param(said(mtime="\u0663"), "not a PAX time", id="pax-time-in-other-digits"),
        pytest.param(
            member(typeflag=b"3", devmajor=4096), "out of range", id="device-major-over-12-bits"
        ),
        pytest.param(
            member(typeflag=b"4", devminor=1 << 20), "out of range", id="device-minor-over-20-bits"
        ),
        pytest.param(broken_record(b"path=x\n"), "begin with its length", id="record-no-length"),
        pytest.param(broken_record(b"99 path=x\n"), "as long as", id="record-longer-than-all"),
        pytest.param(broken_record(b"8 path=x\n"), "as long as", id="record-cut-short"),
        pytest.param(broken_record(b"0 path=x\n"), "as long as", id="record-of-no-length"),
        pytest.param(broken_record(b"7 path\n"), "as long as", id="record-without-a-value"),
        pytest.param(
            records({b"LIBARCHIVE.xattr.user.a": b"!"}) + member(), "base64", id="no-base64"
        ),
    ],
)
def test_a_malformed_member_is_corrupt(payload: bytes, words: str) -> None:
    with pytest.raises(errors.CorruptImage, match=words):
        entries_of(payload + END)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(member(b"s", typeflag=b"V"), id="gnu-volume-label"),
        pytest.param(member(b"s", typeflag=b"M"), id="gnu-continued-file"),
        pytest.param(member(b"s", typeflag=b"D"), id="gnu-incremental-folder"),
    ],
)
def test_a_member_that_would_show_wrong_bytes_is_unsupported_by_name(payload: bytes) -> None:
    with pytest.raises(errors.UnsupportedImage, match="'s'"):
        entries_of(payload + END)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(member(b"x", typeflag=b"x", size=MAX_HEADER_BYTES + 1), id="one-pax-header"),
        pytest.param(member(b"x", typeflag=b"L", size=MAX_HEADER_BYTES + 1), id="one-long-name"),
        pytest.param(records({b"comment": b"c" * 100_000}) * 11, id="many-for-one-member"),
        pytest.param(
            member(b"x", typeflag=b"g", size=MAX_GLOBAL_HEADER_BYTES + 1), id="one-global-header"
        ),
        pytest.param(
            (records({b"comment": b"c" * 10_000}, typeflag=b"g") + member()) * 7, id="many-global"
        ),
    ],
)
def test_header_records_are_bounded_before_they_are_gathered(payload: bytes) -> None:
    with pytest.raises(errors.CorruptImage, match="header records"):
        entries_of(payload)


def test_many_members_may_have_large_records_each() -> None:
    one = records({b"comment": b"c" * (MAX_HEADER_BYTES - 2048)}) + member()
    assert len(entries_of(one * 3 + END)) == 3


def test_xattrs_of_a_member_are_bounded_by_what_the_kernel_lists() -> None:
    name, most = b"user.a", MAX_XATTR_BYTES - len(b"user.a")
    assert len(only(records({XATTR + name: b"v" * most}) + member() + END).xattrs[0][1]) == most
    with pytest.raises(errors.CorruptImage, match="xattrs"):
        entries_of(records({XATTR + name: b"v" * (most + 1)}) + member())


def test_members_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_ENTRIES", 3)
    assert len(entries_of(member() * 3 + END)) == 3
    with pytest.raises(errors.CorruptImage, match="more than 3 members"):
        entries_of(member() * 4 + END)
