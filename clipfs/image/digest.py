"""Digests, and the one name that a layer has in every tier.

Source: OCI image specification, "Descriptor", "Digests".
"""

import re
from typing import NewType

from clipfs import errors

Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hex digits; other algorithms are refused at the edge."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def parse_digest(text: str, *, of: str) -> Digest:
    """text as a digest; UnsupportedImage, naming what it was the digest of, if it is none."""
    if not is_digest(text):
        raise errors.UnsupportedImage(
            f"{of}: {text[:100]!r} is not a sha256 digest (sha256: and 64 lower-case hex digits)"
        )
    return Digest(text)


def cache_key(digest: Digest) -> str:
    """`sha256_<hex>`: file name on disk, key in the content cache, `cache_key` in every log."""
    return digest.replace(":", "_", 1)
