"""What a reader sees when a read fails: an errno for each error. A test holds it complete."""

import errno

from clipfs import errors

ERRNO: dict[type[errors.ClipError], int] = {
    errors.InvalidInput: errno.EIO,
    errors.ImageNotFound: errno.EIO,
    errors.Unauthenticated: errno.EACCES,
    errors.AccessDenied: errno.EACCES,
    errors.RegistryUnavailable: errno.EIO,
    errors.CorruptImage: errno.EIO,
    errors.UnsupportedImage: errno.EIO,
    errors.DiskFull: errno.ENOSPC,
    errors.NodeFault: errno.EIO,
}


def errno_of(error: BaseException) -> int:
    """EIO for whatever is not listed: that is a bug, and never wrong bytes."""
    return ERRNO.get(type(error), errno.EIO) if isinstance(error, errors.ClipError) else errno.EIO
