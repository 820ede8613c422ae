"""The origin records on a node's disk, beside the layer indexes, with which they are collected.

Not here: what a record says (`clipfs.layer.origin`); those in the content cache, and what becomes
of a layer without one (`clipfs.tiers.proofs`).
"""

import os

from clipfs import errors
from clipfs.image.model import Image, Layer
from clipfs.layer.layout import Layout
from clipfs.layer.origin import open_record, record_name, seal_record
from clipfs.layer.seal import KeyRing
from clipfs.log import log
from clipfs.system.cached import read_cached
from clipfs.system.durable import write_atomically


def lacks_origin(layout: Layout, keys: KeyRing, image: Image) -> bool:
    """Whether this disk has no record of one of the image's layers for the host that it names.

    A few small reads: for who would show an image that is mounted already under another name.
    `clipfs index` earns what is missing, or says why it cannot.
    """
    records = OriginRecords(layout, keys)
    return not all(records.has(layer, image.reference.registry) for layer in image.layers)


class OriginRecords:
    """Those under one root that `keys` open."""

    def __init__(self, layout: Layout, keys: KeyRing) -> None:
        self._layout = layout
        self._keys = keys
        self._told: set[str] = set()  # records that a warning has told of

    def has(self, layer: Layer, host: str) -> bool:
        """Whether a record says that the blob was delivered for host; else that is not known."""
        name = record_name(layer.cache_key, host)
        opened = self._opened(layer, name)
        if opened is not None and opened[1]:
            self.add(layer, host)
        return opened is not None

    def add(self, layer: Layer, host: str, *, durable: bool = True) -> None:
        """Record it; call it once the whole blob had the layer's digest.

        A disk that refuses costs a download later, and no reader anything.
        durable  False: the record can be had again where it came from
        """
        path = self._layout.index / record_name(layer.cache_key, host)
        sealed = seal_record(layer, host, self._keys)
        try:
            if read_cached(path) != sealed:
                write_atomically(path, sealed, durable=durable)
        except OSError as error:
            key, why = layer.cache_key, str(errors.node_fault(error))
            log.warning("origin record was not kept", cache_key=key, host=host, error=why)

    def hosts(self, layer: Layer) -> list[str]:
        """Those for which the disk holds a record of the layer."""
        prefix = record_name(layer.cache_key, "").rpartition(".")[0] + "."
        try:
            names = sorted(one for one in os.listdir(self._layout.index) if one.startswith(prefix))
            opened = [self._opened(layer, name) for name in names if not name.endswith(".tmp")]
        except OSError as error:
            log.warning(
                "origin records cannot be read", cache_key=layer.cache_key, error=str(error)
            )
            return []
        return [one[0] for one in opened if one is not None]

    def _opened(self, layer: Layer, name: str) -> tuple[str, bool] | None:
        sealed = read_cached(self._layout.index / name)
        opened = open_record(sealed, layer, self._keys, name=name) if sealed is not None else None
        if sealed is not None and opened is None and name not in self._told:
            self._told.add(name)
            log.warning("origin record does not verify, it proves nothing", name=name)
        return opened
