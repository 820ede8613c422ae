"""The trees of images on this node: made by work that all calls share, there while wanted.

A tree is wanted by the volumes that show it, by calls that wait for it, and, for a while, by
those that may come again (`csi.work`).

Locks are of an image, and short; none is held while a tree is made. Work on one image of one
registry is done one after the other, whatever fronts it is for. A registry that stalls so holds up
nobody who asks another one for the image, which has to deliver the layers itself anyway.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Image
from clipfs.layer.layout import Layout
from clipfs.layer.use import InUse
from clipfs.log import log
from csi.calls import Call
from csi.credentials.lending import Lent
from csi.errors import StillIndexing, os_errors_named
from csi.locks import NamedLocks
from csi.mounter import Mounter, Tree
from csi.progress import in_words
from csi.status.reporter import WorkProgress
from csi.volume import Volume, name_of
from csi.work import LINGER_S, Task, Works

OnWait = Callable[[WorkProgress | None], None]

REFUSALS = (errors.Unauthenticated, errors.AccessDenied, errors.ImageNotFound)
"""What a registry says to some credentials, and perhaps not to others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeWanted:
    """What work is shared by: an image's digest, under one name in one registry, and a front.

    By name, so that what fails at one registry fails nobody who asks another one.
    """

    digest: Digest
    name: str
    front: str


class Trees:
    def __init__(
        self,
        layout: Layout,
        mounter: Mounter,
        locks: NamedLocks,
        *,
        is_shown: Callable[[str], bool],
        linger_s: float = LINGER_S,
    ) -> None:
        """locks  with digests of images among their names
        is_shown  whether a volume shows the image with this digest
        linger_s  how long work goes on, and its tree stays, for a call that comes again
        """
        self._layout = layout
        self._mounter = mounter
        self._locks = locks
        self._is_shown = is_shown
        self._at_work: dict[str, Task[Tree, WorkProgress]] = {}  # whose turn it is
        self._works: Works[Tree, WorkProgress] = Works(
            self._given_up, in_words=in_words, linger_s=linger_s
        )

    def end(self) -> None:
        """Answer all calls that wait for a tree, and stop all work on one; those shown stay."""
        self._works.end()

    def mounted(self) -> list[Digest]:
        return self._mounter.mounted()

    def check_is_here(self, volume: Volume, image: Image) -> None:
        """That the image's tree is on this node, or can be made without a download; ImageNotFound
        if it is not."""
        if not self._mounter.is_here(image, front=volume.front):
            raise errors.ImageNotFound(
                f"{volume.image} is not on this node, and pullPolicy is Never; say "
                "IfNotPresent, or have it published on this node before"
            )

    @contextmanager
    def joined(
        self,
        volume: Volume,
        image: Image,
        credentials: RegistryConfig,
        call: Call,
        on_wait: OnWait,
    ) -> Iterator[Tree]:
        """The image's tree, which stays for the block.

        Work that others began with their credentials, and that these were refused, is begun anew
        with credentials: each caller proved access with its own, and is told of nobody else's.
        Raises  StillIndexing if it is not there when call must be answered: it says how far it is;
                any ClipError that says why it cannot be
        """

        tried = False  # whether what was done was done with these credentials

        def run(task: Task[Tree, WorkProgress]) -> Tree:
            nonlocal tried
            tried = True
            lent = Lent(volume=name_of(volume.target), config=credentials)
            return self._made(image, volume.front, lent, task)

        name = f"{image.reference.registry}/{image.reference.repository}"
        key = TreeWanted(digest=image.digest, name=name, front=volume.front)
        caller = str(volume.target)
        with ExitStack() as joined:
            while True:
                work = self._works.joined(key, run, name=caller, call=call, on_wait=on_wait)
                try:
                    tree = joined.enter_context(work)
                    break
                except StillIndexing as error:
                    raise StillIndexing(f"{image.reference}: {error}") from error
                except REFUSALS:
                    if tried:
                        raise
            yield tree

    def words(self, target: Path) -> str | None:
        """How far the tree is that a call of the volume at target waits for; None: none does."""
        return self._works.words(str(target))

    def drop_unused(self, digest: Digest) -> None:
        """Take the image's trees away if nobody wants them."""
        with self._locks.held(digest):
            self.drop_if_unused(digest)

    def drop_if_unused(self, digest: Digest) -> None:
        """The same, by who holds the image's lock."""
        wanted = self._works.wants(lambda key: _digest_of(key) == digest)
        if not (wanted or self._is_shown(digest)):
            self._mounter.unmount(digest)

    def _made(self, image: Image, front: str, lent: Lent, task: Task[Tree, WorkProgress]) -> Tree:
        """In the work's thread."""
        turn = f"tree of {image.digest} at {image.reference.registry.lower()}"

        def tell_whose_turn_it_is() -> None:
            if (first := self._at_work.get(turn)) is not None and first.progress is not None:
                task.tell(first.progress)

        with self._locks.held(turn, task.is_wanted, on_wait=tell_whose_turn_it_is):
            with self._locks.held(image.digest):
                pass  # whoever takes its last tree away is done with that
            try:
                self._at_work[turn] = task
                with os_errors_named(), InUse(self._layout) as in_use:
                    in_use.hold(keys_of(image))
                    return self._mounter.mount(image, front=front, lent=lent, watch=task)
            finally:
                del self._at_work[turn]

    def _given_up(self, key: Hashable) -> None:
        digest = _digest_of(key)
        try:
            self.drop_unused(digest)
        except (errors.ClipError, OSError) as error:
            log.warning("image is left as it is", digest=digest, error=str(error))


def keys_of(image: Image) -> list[str]:
    """What must not be evicted while the image is wanted."""
    return [cache_key(image.digest), *(one.cache_key for one in image.layers)]


def _digest_of(key: Hashable) -> Digest:
    assert isinstance(key, TreeWanted)
    return key.digest
