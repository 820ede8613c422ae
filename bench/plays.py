"""How the pods of `bench.cluster` come and what they read, and the tables of what that moved."""

from dataclasses import dataclass

from bench.measure import Figure, human

NODES = 10
STARTS = 100
STARTS_APART = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """How the cluster's pods come, how many to a node, and what they read."""

    words: str
    starts: int = STARTS
    tier_2: bool = True
    apart: bool = False
    moving: bool = False

    @property
    def title(self) -> str:
        offsets = "every start at another offset" if self.moving else "one offset a node"
        return f"{self.words}, {self.starts} starts{' apart' * self.apart}, {offsets}"


FIXED = (Play(words="with tier 2"), Play(words="without tier 2", tier_2=False))
MOVING = (
    Play(words="with tier 2", moving=True),
    Play(words="without tier 2", tier_2=False, moving=True),
)
APART = (
    Play(words="with tier 2", apart=True, starts=STARTS_APART),
    Play(words="without tier 2", apart=True, starts=STARTS_APART, tier_2=False),
)


TABLES = {
    f"{STARTS} starts each, always at the node's own offset": FIXED,
    f"{STARTS} starts each, every one at another offset": MOVING,
    f"{STARTS_APART} starts each, at the node's own offset; every start a mount": APART,
}
HEAD = ("bytes", "registry", "content cache", "of it indexes", "together", "uploaded", "seconds",
        "first start", "start")  # fmt: skip # a row's columns


@dataclass(slots=True, kw_only=True)
class Moved:
    """What a play has moved, by the servers, and what it took.

    indexes   bytes of the layer's index, once for each node that got it from the content cache
    uploaded  received by the content cache, requests included
    """

    registry: int
    content_cache: int
    indexes: int
    uploaded: int
    seconds: float
    starts: Figure
    first_starts: Figure

    @property
    def together(self) -> int:
        return self.registry + self.content_cache

    @property
    def counted(self) -> dict[str, int]:
        return {
            "registry": self.registry, "content cache": self.content_cache,
            "indexes": self.indexes, "together": self.together, "uploaded": self.uploaded,
        }  # fmt: skip # one thought


def row(play: Play, moved: Moved) -> list[str]:
    return [
        play.words,
        *(f"{count:,}" for count in moved.counted.values()),
        f"{moved.seconds:.1f}",
        human(moved.first_starts.median_s),
        human(moved.starts.median_s),
    ]
