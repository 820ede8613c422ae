"""Who is at fault for wrong pages: a replica that sent them, or this node.

A disk that rots is one replica's. A node whose memory, CPU or network card is bad meets wrong
pages wherever it reads, and would remove right ones from all replicas, one after the other.

Decisions only, on trio's clock. Not here: what is wrong (`clipfs.tiers.verify`).
"""

from dataclasses import dataclass, field

import trio

from clipfs.log import log

WITHIN_S = 60
MOST_WRONG_PAGES = 16
"""A node that is at fault removes fewer a minute; a layer of 128 MiB has so many."""


@dataclass(slots=True)
class Blame:
    """Remembers the wrong pages of the last minute, and which copies have answered at all."""

    _answered: set[str] = field(default_factory=set)
    _wrong: dict[tuple[str, str], float] = field(default_factory=dict)  # key and copy: when
    _has_told: bool = False

    def right(self, copy: str) -> None:
        """Say that a copy has sent a right page."""
        self._answered.add(copy)

    def wrong(self, key: str, copy: str) -> bool:
        """Say that a copy has sent a wrong page; whether that is to be removed there."""
        now = trio.current_time()
        self._answered.add(copy)
        self._wrong[key, copy] = now
        self._wrong = {one: at for one, at in self._wrong.items() if now - at < WITHIN_S}
        pages = {page for page, _ in self._wrong}
        copies = {copy for _, copy in self._wrong}
        if len(pages) < MOST_WRONG_PAGES or len(copies) < min(2, len(self._answered)):
            return True
        if not self._has_told:
            log.warning(
                "so many pages from the content cache are wrong that this node may be at fault: it "
                "removes no more of them; check its memory and network, then the content cache",
                pages=len(pages),
                copies=sorted(copies),
            )
        self._has_told = True
        return False
