"""Which image a volume may have, and with whose credentials: asked by work that its calls join.

    image, chosen = admissions.joined(volume, pinned, call)

Sources of credentials and registries may be silent for minutes, and a call has two. So they are
asked in a thread of the volume's own: a call whose time is up is told what is being waited for,
and the kubelet's next one joins the same asking, or gets its answer if that is new enough.

Not here: asking (`csi.credentials.asking`); the decision (`csi.access`); trees (`csi.trees`).
"""

import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.model import Image
from csi.access.proofs import FRESH_S
from csi.asker import Asker
from csi.calls import Call
from csi.credentials.asking import Asking
from csi.credentials.sources import Chosen
from csi.errors import StillIndexing
from csi.volume import Volume
from csi.work import LINGER_S, Task, Works

Admitted = tuple[Image, Chosen]


class Admit(Protocol):
    def __call__(
        self,
        volume: Volume,
        credentials: RegistryConfig,
        *,
        pinned: Digest | None = None,
        asker: Asker,
    ) -> Image:
        """The image that the volume may show, to who holds credentials: `Access.admit`."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What is being asked, and since when by the clock of `time.monotonic`."""

    what: str
    since_s: float


class Admissions:
    def __init__(self, admit: Admit, asking: Asking, *, linger_s: float = LINGER_S) -> None:
        """linger_s  how long it goes on asking for a call that comes again"""
        self._admit = admit
        self._asking = asking
        self._works: Works[Admitted, Wait] = Works(
            lambda _: None, in_words=in_words, linger_s=linger_s, keep_s=FRESH_S
        )

    def joined(self, volume: Volume, pinned: Digest | None, call: Call) -> Admitted:
        """The image that volume may show, and what it was asked for with.

        pinned  what its tag was found to be before
        Raises  StillIndexing if nobody knows when call must be answered: it says who is asked;
                any ClipError of sources and registry
        """

        def run(task: Task[Admitted, Wait]) -> Admitted:
            asker = _Telling(task)
            question = partial(self._admit, volume, pinned=pinned, asker=asker)
            return self._asking.ask(volume, question, asker)

        name = str(volume.target)
        try:
            with self._works.joined(_key(volume, pinned), run, name=name, call=call) as found:
                return found
        except StillIndexing as error:
            raise StillIndexing(f"{volume.image}: {error}") from error

    def words(self, target: Path) -> str | None:
        """Who is asked for a call of the volume at target; None: nobody."""
        return self._works.words(str(target))

    def end(self) -> None:
        """Answer all calls that wait, and give up what is being asked."""
        self._works.end()


def in_words(wait: Wait | None) -> str:
    if wait is None:
        return "waiting for its turn"
    return f"{wait.what}, for {time.monotonic() - wait.since_s:.0f} s"


@dataclass(frozen=True, slots=True)
class _Telling:
    """The asker that a volume's work is."""

    task: Task[Admitted, Wait]

    def is_wanted(self) -> bool:
        return self.task.is_wanted()

    def waits_for(self, what: str) -> None:
        self.task.tell(Wait(what, time.monotonic()))


@dataclass(frozen=True, slots=True)
class _Key:
    """A volume's question; said: all that the answer follows from, secrets among it."""

    target: str
    said: bytes = field(repr=False)


def _key(volume: Volume, pinned: Digest | None) -> Hashable:
    said = [
        sorted(volume.attributes.items()),
        str(volume.pod),
        pinned,
        volume.credentials.to_json(),
        sorted((audience, one.text) for audience, one in volume.tokens.items()),
    ]
    return _Key(str(volume.target), msgspec.json.encode(said))
