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
    REQUESTS,
) = range(9)
_WIDTH = REQUESTS + len(METHODS) * _CLASSES
_NUMBER_BYTES = 8


def request(method: str, status: int) -> int:
    """Where answers of this kind are counted."""
    return REQUESTS + _METHOD_AT.get(method, _OTHER_AT) + status // 100 - 1


class Counters:
    """The slots; made before the first worker is.

    changes  of each process how many objects it has changed, as bytes; whoever keeps a copy
             sees by comparing it whether anything has changed since
    """

    def __init__(self, slots: int) -> None:
        memory = memoryview(mmap.mmap(-1, slots * (_WIDTH + 1) * _NUMBER_BYTES))
        self.changes = memory[: slots * _NUMBER_BYTES]
        self._changes = self.changes.cast("Q")
        numbers = memory[slots * _NUMBER_BYTES :].cast("Q")
        self.slots = [numbers[n * _WIDTH : (n + 1) * _WIDTH] for n in range(slots)]

    def changed(self, slot: int) -> None:
        """An object is replaced or gone; called by slot's process, before it says so to anyone."""
        self._changes[slot] += 1

    def sum(self, number: int) -> int:
        return sum(slot[number] for slot in self.slots)
