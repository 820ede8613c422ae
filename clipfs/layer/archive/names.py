"""Names of tar members, normalised: relative, no ".", no "..", one "/" between components.

Names are bytes from end to end. What cannot be a name on Linux is refused here, once.
Source: POSIX.1-2017, "Pathname Resolution"; Linux limits NAME_MAX and PATH_MAX.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from clipfs import errors
from clipfs.layer.limits import MAX_COMPONENT_BYTES, MAX_DEPTH, MAX_PATH_BYTES


def normalised(name: bytes) -> bytes:
    """name below the root, b"" for the root itself; CorruptImage if it leaves the root."""
    if not (b"//" in name or b"/." in name or name.startswith((b"/", b".")) or name.endswith(b"/")):
        parts = name.split(b"/")
    else:
        parts = _collapsed(name)
    if b"\0" in name:
        raise errors.CorruptImage(f"tar: a NUL in the name {shown(name)}")
    if len(parts) > MAX_DEPTH:
        raise errors.CorruptImage(f"tar: {shown(name)} is more than {MAX_DEPTH} folders deep")
    if len(name) > MAX_COMPONENT_BYTES and any(len(p) > MAX_COMPONENT_BYTES for p in parts):
        raise errors.CorruptImage(
            f"tar: a component of {shown(name)} is over {MAX_COMPONENT_BYTES} bytes"
        )
    path = b"/".join(parts)
    if len(path) > MAX_PATH_BYTES:
        raise errors.CorruptImage(f"tar: a name of {len(path)} bytes, more than {MAX_PATH_BYTES}")
    return path


def shown(name: bytes) -> str:
    """name for an error message: short, printable, quoted."""
    return ascii(name[:120].decode("utf-8", "surrogateescape"))


@contextmanager
def naming_member(name: bytes) -> Iterator[None]:
    """Errors about the parts of a member say which member they mean."""
    try:
        yield
    except (errors.CorruptImage, errors.UnsupportedImage) as error:
        said = str(error).removeprefix("tar: ")
        raise type(error)(f"tar: {shown(name)}: {said}") from error


def _collapsed(name: bytes) -> list[bytes]:
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise errors.CorruptImage(f"tar: the name {shown(name)} leaves the root by ..")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return parts
