"""Which of a node's ClipMounts has its turn: news before counters, and namespaces one by one.

Within a namespace the one that was added first is first. So however many pods of one namespace
have something to tell, the first of another waits for one of them only.

Not here: when one becomes due, and what is written then (`csi.status.mounts`).
"""

from csi.status.reporter import Subject

Key = tuple[str, str]


class _Line:
    """By namespace, keys and when they are due, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[Key, float]] = {}  # the namespace that was served last, last

    def add(self, subject: Subject, at: float) -> None:
        self._waiting.setdefault(subject.pod.namespace, {}).setdefault(subject.key, at)

    def remove(self, subject: Subject) -> bool:
        namespace = subject.pod.namespace
        found = self._waiting.get(namespace, {}).pop(subject.key, None)
        if not self._waiting.get(namespace, True):
            del self._waiting[namespace]
        return found is not None

    def next(self, now: float) -> Key | None:
        for namespace, waiting in self._waiting.items():
            key, at = next(iter(waiting.items()))
            if at <= now:
                self._waiting[namespace] = self._waiting.pop(namespace)
                return key
        return None

    def soonest(self) -> float | None:
        heads = (next(iter(waiting.values())) for waiting in self._waiting.values())
        return min(heads, default=None)


class Turns:
    """Times are monotonic seconds; what has its turn waits on until it is removed."""

    def __init__(self) -> None:
        self._news, self._counters = _Line(), _Line()

    def add_news(self, subject: Subject, at: float) -> None:
        """It is due at that time, or before if it is already."""
        self._news.add(subject, at)

    def add_counters(self, subject: Subject, at: float) -> None:
        self._counters.add(subject, at)

    def remove(self, subject: Subject) -> bool:
        """Whether it was to be written."""
        return any([self._news.remove(subject), self._counters.remove(subject)])

    def next_news(self, now: float) -> Key | None:
        return self._news.next(now)

    def next_counters(self, now: float) -> Key | None:
        return self._counters.next(now)

    def soonest(self) -> float | None:
        """When one is due; None: there is none."""
        moments = (self._news.soonest(), self._counters.soonest())
        return min((at for at in moments if at is not None), default=None)
