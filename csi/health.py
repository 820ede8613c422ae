"""Whether a server's mount is well, from its counters: pure.

A read that failed is somebody's error at once. The content cache may miss an answer now and then,
which somebody else gives: it is away if that happens in two looks one after the other.

Not here: who looks, and at what (`csi.watch`).
"""

from dataclasses import dataclass

WELL_S = 300
"""So long without another one and it is well: what waits for a tier asks again before that."""

SERVER_DIED = (
    "the server of its image has died, so reads fail (Transport endpoint is not connected); it "
    "gets another when the kubelet publishes it next, in a minute or two; containers that run by "
    "then see that one once they are started again, or at once with mountPropagation: "
    "HostToContainer; the node's log says what it died of"
)
READS_FAIL = (
    "reads of its files fail; the node's log says why (a request failed); it is well again by "
    "itself once the registry, its credentials or the disk are"
)
CACHE_AWAY = (
    "the content cache does not answer, so its reads are slow or go to the registry; see to its "
    "replicas and the network; it is well again by itself once they are"
)


@dataclass(slots=True)
class Health:
    """Of one server; times are monotonic seconds.

    failed, errors  reads that failed, and requests to the content cache without an answer, as
                    they were counted at the last look
    """

    failed: int = 0
    errors: int = 0
    _erred: bool = False
    _reads_fail_until: float = 0.0
    _cache_away_until: float = 0.0

    def lack(self, *, failed: int, errors: int, now: float) -> str:
        """What it lacks, by a look at its counters now; empty: nothing."""
        if failed > self.failed:
            self._reads_fail_until = now + WELL_S
        erred = errors > self.errors
        if erred and (self._erred or now < self._cache_away_until):
            self._cache_away_until = now + WELL_S
        self.failed, self.errors, self._erred = failed, errors, erred
        if now < self._reads_fail_until:
            return READS_FAIL
        return CACHE_AWAY if now < self._cache_away_until else ""
