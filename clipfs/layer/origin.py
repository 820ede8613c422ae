"""Origin records: this blob has been delivered, whole and right, for a reference to this host.

Knowing a digest is not owning it: anyone's registry can serve a manifest that names a neighbour's
layer. A record says that the host, or a mirror that the administrator set for it, has delivered
the blob itself. The host is the one that the reference names, never the mirror. A record is true
for ever, whether the payload is still here or not. It is sealed like a layer index, and its
content is the host: nobody makes one of another layer's, or of another host's.

Not here: where records are kept (`clipfs.tiers.origins`); what a seal is (`clipfs.layer.seal`).
"""

from hashlib import sha256

from clipfs.image.model import Layer
from clipfs.layer.seal import KeyRing

KIND = "origin"
VERSION = 1

MAX_RECORD_BYTES = 1024
"""Sealed: a host is shorter than a reference's name, which has 255 characters at most."""


def record_name(key: str, host: str) -> str:
    """What the record of a cache key and a host is called, on a disk as in the content cache."""
    return f"{key}.v{VERSION}.{KIND}.{sha256(_plain(host)).hexdigest()}"


def seal_record(layer: Layer, host: str, keys: KeyRing) -> bytes:
    """The bytes of the record; the same for the same first key."""
    return keys.seal(_plain(host), kind=KIND, version=VERSION, name=layer.cache_key)


def open_record(
    sealed: bytes | bytearray, layer: Layer, keys: KeyRing, *, name: str
) -> tuple[str, bool] | None:
    """The host of the layer's record of this name, and whether to seal it anew.

    Returns  None if anything is wrong: the seal, the version, the layer, or the host of the name
    """
    opened = keys.open(sealed, kind=KIND, version=VERSION, name=layer.cache_key)
    if opened is None:
        return None
    host = opened.content.decode("utf-8", "replace")  # a signer may be wrong, too
    if record_name(layer.cache_key, host) != name:
        return None
    return host, opened.renew


def _plain(host: str) -> bytes:
    """The host as DNS takes it."""
    return host.lower().encode()
