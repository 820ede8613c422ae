"""What an image is to the rest of clipfs: a manifest digest and its layers, in order.

Plain frozen values; how they are found is `clipfs.image.registry`'s.
Source: OCI image specification, "Descriptor", "Image Manifest", "Image Configuration".
"""

from dataclasses import dataclass, field

from clipfs.image.digest import Digest, cache_key
from clipfs.image.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer as the manifest and the config name it.

    digest      of the blob as it is stored in the registry (compressed)
    size        bytes of that blob
    diff_id     digest of the payload, the decompressed bytes; None where no config tells it
    raw_path    of a raw layer, whose blob is one file: its path in the image; None: a tar
    """

    digest: Digest
    size: int
    media_type: str
    diff_id: Digest | None
    raw_path: str | None = None

    @property
    def cache_key(self) -> str:
        """`sha256_<hex>`; one blob, taken raw and taken as a tar, has two payloads."""
        return cache_key(self.digest) + (".raw" if self.raw_path is not None else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One platform's image: `digest` names its manifest; layers[0] is the lowest."""

    reference: Reference
    digest: Digest
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSource:
    """Where a blob can be read right now with one plain GET: authorised, redirects followed.

    Both may hold a credential, url a signature: never in a log, an argument list or a file.

    ca_pem  CAs to trust beside the node's own
    proxy   through which, if any; may hold a password
    host    the registry's or mirror's own address, which led there
    """

    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    ca_pem: str = field(default="", repr=False)
    proxy: str = field(default="", repr=False)
    host: str = ""
