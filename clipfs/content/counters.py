"""What the server counts: plain numbers in memory that all its processes share.

Each process adds to a slot of its own, so nothing is locked, and a sum is over all slots. What
a worker counted stays when it dies: its successor goes on from there.

Not here: how they are shown (`clipfs.content.metrics`).
"""

import mmap

Counts = memoryview
"""One process's slot: `counts[SENT_BYTES] += 5`. The memory is shared, the slot is not."""

METHODS = ("GET", "HEAD", "PUT", "DELETE", "other")
_CLASSES = 5
_METHOD_AT = {method: n * _CLASSES for n, method in enumerate(METHODS)}
_OTHER_AT = _METHOD_AT["other"]

(
    SENT_BYTES,
    RECEIVED_BYTES,
    FOUND,
    MISSED,
    ACCEPTED,
    REFUSED,
    OPEN,
    RESTARTS,
    EVICTED_LAYERS,
    EVICTED_BYTES,
    REQUESTS,
) = range(11)
_WIDTH = REQUESTS + len(METHODS) * _CLASSES
_NUMBER_BYTES = 8


def request(method: str, status: int) -> int:
    """Where answers of this kind are counted."""
    return REQUESTS + _METHOD_AT.get(method, _OTHER_AT) + status // 100 - 1


class Counters:
    """The slots; made before the first worker is."""

    def __init__(self, slots: int) -> None:
        self._memory = mmap.mmap(-1, slots * _WIDTH * _NUMBER_BYTES)
        every = memoryview(self._memory).cast("Q")
        self.slots = [every[n * _WIDTH : (n + 1) * _WIDTH] for n in range(slots)]

    def sum(self, number: int) -> int:
        return sum(slot[number] for slot in self.slots)
