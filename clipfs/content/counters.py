"""The server's counters: plain numbers in memory that all its processes share.

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
    SENT_PAGE_BYTES,
    REQUESTS,
) = range(10)
_WIDTH = REQUESTS + len(METHODS) * _CLASSES
_NUMBER_BYTES = 8


def request(method: str, status: int) -> int:
    """Where answers of this kind are counted."""
    return REQUESTS + _METHOD_AT.get(method, _OTHER_AT) + status // 100 - 1


class Counters:
    """The slots of the parent and of each worker; made before the first worker is.

    changes  how many objects each worker has changed, as bytes; whoever keeps a copy sees by
             comparing it whether anything has changed since
    """

    def __init__(self, workers: int) -> None:
        changes_bytes = workers * _NUMBER_BYTES
        slot_bytes = _WIDTH * _NUMBER_BYTES
        memory = memoryview(mmap.mmap(-1, changes_bytes + (1 + workers) * slot_bytes))
        self.changes = memory[:changes_bytes]
        self._changes = self.changes.cast("Q")
        starts = range(changes_bytes, len(memory), slot_bytes)
        slots = [memory[at : at + slot_bytes].cast("Q") for at in starts]
        self.parent, self.workers = slots[0], slots[1:]

    def changed(self, worker: int) -> None:
        """An object is replaced or gone; called by worker, before it says so to anyone."""
        self._changes[worker] += 1

    def sum(self, number: int) -> int:
        return self.parent[number] + sum(worker[number] for worker in self.workers)
