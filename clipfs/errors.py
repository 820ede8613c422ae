"""The errors that clipfs raises on purpose, named by what the caller can do.

Each class carries `code`, the stable word that `--json` prints, and `transient`: whether the
same call may succeed later without anyone changing anything. Foreign errors are renamed at
the edge where they enter, with `from`. What is not listed here is a bug.

Not here: errno of the FUSE front (`clipfs.mount.front`), gRPC codes (`csi.errors`).
"""

import errno
from typing import ClassVar, TypeGuard


class ClipError(Exception):
    """Base of all that clipfs raises on purpose: catch it, raise a subclass."""

    code: ClassVar[str] = "internal"
    transient: ClassVar[bool] = False


class InvalidInput(ClipError):
    """The caller's words are wrong: a reference, an option, a mount point. Correct them."""

    code = "invalid_input"


class ImageNotFound(ClipError):
    """The registry says that there is no such image, tag, platform or path."""

    code = "image_not_found"


class Unauthenticated(ClipError):
    """The registry wants credentials, or other ones (401). Supply them."""

    code = "unauthenticated"


class AccessDenied(ClipError):
    """The registry knows who asks and refuses (403). Ask for the right to pull."""

    code = "access_denied"


class RegistryUnavailable(ClipError):
    """No answer, a broken one, a 5xx or a 429. A retry may help."""

    code = "registry_unavailable"
    transient = True


class CorruptImage(ClipError):
    """Bytes arrived but are wrong: digest, manifest, layer or index. A retry cannot help."""

    code = "corrupt_image"


class UnsupportedImage(ClipError):
    """A well-formed image of a kind that clipfs does not read. Convert the image."""

    code = "unsupported_image"


class DiskFull(ClipError):
    """The disk of --root, or its quota, has no room. Free space; a retry then succeeds."""

    code = "disk_full"
    transient = True


class NodeFault(ClipError):
    """The node refuses: mount(2), a missing /dev/fuse, a dead process. Look at the node."""

    code = "node_fault"


def is_the_disks(error: BaseException) -> TypeGuard[OSError]:
    """Whether the disk refuses, as it may at any write: `node_fault` says which file and why."""
    refusals = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
    return isinstance(error, OSError) and error.errno in refusals


def node_fault(error: OSError) -> NodeFault | DiskFull:
    """What the node's own system refuses: which file, if it says so, why, and the way out."""
    said = error.strerror or str(error)
    if error.filename is not None:
        said = f"{error.filename}: {said}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{said}; free space on the disk of --root")
    return NodeFault(said)


def error_of_code(code: str, message: str) -> ClipError:
    """The error that another process reported by its code; ClipError itself if unknown."""
    kinds = {kind.code: kind for kind in ClipError.__subclasses__()}
    return kinds.get(code, ClipError)(message)
