"""What the parent and the worker of a merge say to each other, as lines of JSON."""

import msgspec

WORKER = "clipfs.tree.worker"
"""The module that a worker process runs."""


class LayerToMerge(msgspec.Struct, frozen=True):
    """One layer, without its index."""

    digest: str
    raw_path: str | None


class MergeJob(msgspec.Struct, frozen=True):
    """Layers, the lowest first; their indexes come to stand in the memory file fd, and behind
    them the image index."""

    fd: int
    layers: list[LayerToMerge]


class IndexWanted(msgspec.Struct, frozen=True):
    """A question: where is the index of layer number? It is answered once it is there."""

    number: int


class Place(msgspec.Struct, frozen=True):
    """Where in the memory file an index stands."""

    offset: int
    size: int
