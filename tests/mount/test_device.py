"""INIT is answered by us: what libfuse sees of the request, what the kernel sees of its answer."""

import errno
import struct
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.mount import device
from clipfs.mount.device import (
    FUSE_ALLOW_IDMAP,
    FUSE_ASYNC_DIO,
    FUSE_CACHE_SYMLINKS,
    FUSE_INIT_EXT,
    patched_answer,
    patched_request,
)
from tests.mount.idmap import SHIFT, idmapped
from tests.mount.served import Served
from tests.support.machine import needs_fuse

OTHER = 1 << 3 | 1 << 20
"""Flags that are none of our business."""


def request(flags: int, flags2: int = 0) -> bytes:
    """fuse_in_header and fuse_init_in, as a kernel of protocol 7.45 sends them."""
    body = struct.pack("<IIIII11I", 7, 45, 128 << 10, flags, flags2, *[0] * 11)
    return struct.pack("<IIQQIIII", 40 + len(body), 26, 2, 0, 0, 0, 0, 0) + body


def answer(flags: int, *, error: int = 0) -> bytes:
    """fuse_out_header and fuse_init_out, as libfuse writes them."""
    body = struct.pack(
        "<IIIIHHIIHHI7I", 7, 40, 128 << 10, flags, 12, 9, 1 << 20, 1, 256, 0, 0, *[0] * 7
    )
    return struct.pack("<IiQ", 16 + len(body), error, 2) + body


def flags_of(patched: bytes) -> tuple[int, int]:
    flags, flags2 = struct.unpack_from("<I", patched, 28), struct.unpack_from("<I", patched, 48)
    return flags[0], flags2[0]


@pytest.mark.parametrize("flags", [0, OTHER, OTHER | FUSE_ASYNC_DIO, 0xFFFF_FFFF])
def test_libfuse_is_never_offered_asynchronous_direct_io(flags: int) -> None:
    assert patched_request(request(flags, 0x1FF)) == request(flags & ~FUSE_ASYNC_DIO, 0x1FF)


EXTRAS = FUSE_CACHE_SYMLINKS | FUSE_INIT_EXT


@pytest.mark.parametrize(
    ("offered", "offered2", "flags", "flags2"),
    [
        pytest.param(EXTRAS, FUSE_ALLOW_IDMAP, OTHER | EXTRAS, FUSE_ALLOW_IDMAP, id="all"),
        pytest.param(EXTRAS, 0, OTHER | EXTRAS, 0, id="no-idmap"),
        pytest.param(EXTRAS, 0xFFFF_FFFF, OTHER | EXTRAS, FUSE_ALLOW_IDMAP, id="only-idmap"),
        pytest.param(FUSE_CACHE_SYMLINKS, FUSE_ALLOW_IDMAP, OTHER | FUSE_CACHE_SYMLINKS, 0,
                     id="flags2-means-nothing-without-ext"),
        pytest.param(0, FUSE_ALLOW_IDMAP, OTHER, 0, id="an-old-kernel"),
    ],
)  # fmt: skip
def test_the_answer_takes_what_was_offered_and_no_more(
    offered: int, offered2: int, flags: int, flags2: int
) -> None:
    patched = patched_answer(answer(OTHER), request(offered, offered2))
    assert flags_of(patched) == (flags, flags2)


def test_the_answer_allows_read_ahead_and_more_requests_at_once() -> None:
    patched = patched_answer(answer(OTHER), request(0))
    (read_ahead,) = struct.unpack_from("<I", patched, 24)
    assert read_ahead == device.MAX_READ_AHEAD_BYTES
    assert struct.unpack_from("<HH", patched, 32) == (64, 48)
    kept = [slice(0, 24), slice(36, 48), slice(52, None)]
    assert [patched[one] for one in kept] == [answer(OTHER)[one] for one in kept]


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(answer(0, error=-errno.EPROTO), id="error"),
        pytest.param(answer(0)[:24], id="old-protocol"),
        pytest.param(answer(0) + b"\0", id="length"),
    ],
)
def test_an_answer_that_refuses_is_a_node_fault(refused: bytes) -> None:
    with pytest.raises(errors.NodeFault, match="libfuse refused INIT"):
        patched_answer(refused, request(0))


@needs_fuse
def test_a_mount_can_be_idmapped_as_user_namespaces_of_pods_need_it(
    served: Served, tmp_path: Path
) -> None:
    """mount_setattr(2) refuses a FUSE mount whose INIT lacks FUSE_ALLOW_IDMAP, by EINVAL."""
    with idmapped(served.mount, tmp_path):
        assert (tmp_path / "sizes/1").stat().st_uid == SHIFT
        assert (tmp_path / "owner-65534").stat().st_uid == 65_534 + SHIFT
        assert (tmp_path / "sizes/1").read_bytes() == (served.mount / "sizes/1").read_bytes()
