"""The grammar of keys: what may be stored under which name, and what belongs together. Pure.

    sha256_<layer>[.raw]/<page, 6 digits>
    sha256_<layer>[.raw].v1.{toc,sparse,trace,origin.<sha256 of host>}
    sha256_<manifest>.v1.{erofs,trace}

All keys of one layer, or image, begin with the same cache key, and go together when room is made.
"""

import re

PAGE_BYTES = 8 << 20
MAX_INDEX_BYTES = 64 << 20
"""A packed layer index takes 256 bytes a MiB of payload, 25 MiB for 100 GiB, and at most 32 MiB for
its entries; the clients have the same bound (`MAX_SHARED_INDEX_BYTES` of `clipfs.layer.limits`)."""

_HEX = "[0-9a-f]{64}"
_LAYER = re.compile(rf"sha256_{_HEX}(?:\.raw)?")
_PAGE_KEY = re.compile(rf"{_LAYER.pattern}/[0-9]{{6}}")
_INDEX_KEY = re.compile(rf"{_LAYER.pattern}\.v1\.(?:toc|sparse|erofs|trace|origin\.{_HEX})")
_REPLACEABLE = re.compile(r".*\.v1\.(?:toc|erofs|trace|origin\..*)")


def limit_of(key: str) -> int | None:
    """The most bytes that an object of this key may have; None if it is not a key."""
    if _PAGE_KEY.fullmatch(key):
        return PAGE_BYTES
    if _INDEX_KEY.fullmatch(key):
        return MAX_INDEX_BYTES
    return None


def is_page(key: str) -> bool:
    """Whether key names bytes of a payload, and not what is derived of a layer or an image."""
    return _PAGE_KEY.fullmatch(key) is not None


def may_be_claimed(key: str) -> bool:
    """Whether key is a layer's cache key, or names what is made of a layer or an image."""
    return bool(_LAYER.fullmatch(key) or _INDEX_KEY.fullmatch(key))


def is_replaceable(key: str) -> bool:
    """Whether the object may be replaced by those who name its ETag; pages never change."""
    return _REPLACEABLE.fullmatch(key) is not None


def layer_of(name: str) -> str | None:
    """The cache key that a key, or a name below objects/, begins with; None: not one of ours."""
    match = _LAYER.match(name)
    return match[0] if match else None
