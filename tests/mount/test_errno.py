"""Every error has its errno, and what is no error of ours is EIO."""

import errno

import pytest

from clipfs import errors
from clipfs.mount.front.errno import ERRNO, errno_of


def test_the_table_is_complete() -> None:
    ours = {
        kind for kind in errors.ClipError.__subclasses__() if kind.__module__ == "clipfs.errors"
    }
    assert set(ERRNO) == ours


@pytest.mark.parametrize(
    ("error", "number"),
    [
        pytest.param(errors.AccessDenied("no"), errno.EACCES, id="access"),
        pytest.param(errors.CorruptImage("no"), errno.EIO, id="corrupt"),
        pytest.param(errors.DiskFull("no"), errno.ENOSPC, id="disk-full"),
        pytest.param(errors.ClipError("no"), errno.EIO, id="unlisted"),
        pytest.param(ValueError("no"), errno.EIO, id="bug"),
        pytest.param(PermissionError(errno.EPERM, "no"), errno.EIO, id="os-error"),
    ],
)
def test_an_error_is_never_success(error: Exception, number: int) -> None:
    assert errno_of(error) == number
