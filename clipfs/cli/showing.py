"""The second half of `clipfs mount`: an image that is prepared appears, served by whoever can.

The kernel shows it alone where it may. Else this process serves it, or one that is left behind;
such a one stores, too, what tier 2 lacks of the image.

Not here: the options, and how the image is prepared (`clipfs.cli.mount`).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trio

from clipfs.cache.limits import Limits
from clipfs.mount.daemon import leave_behind
from clipfs.mount.front import Wanted
from clipfs.mount.kernel import chosen_tree, mount_tree
from clipfs.mount.mountpoint import made_mountpoint
from clipfs.mount.prepare import Prepared
from clipfs.mount.unmount import unmount
from clipfs.tiers.settings import TierSettings
from clipfs.tiers.storing import mark_storing
from clipfs.tiers.tier import IndexedLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """What is to appear, and how.

    to_store         the layers that tier 2 lacks
    context          of SELinux
    background_fill  what is brought behind the reads, as far as limits leave room
    foreground       serve and store in this process
    log_folder       of processes that are left behind; None: they log to our stderr
    """

    image: Prepared
    settings: TierSettings
    mountpoint: Path
    to_store: Sequence[IndexedLayer]
    front: Wanted
    context: str | None
    background_fill: Literal["off", "touched", "all"]
    limits: Limits
    foreground: bool
    log_folder: Path | None

    def show(self, say: Callable[[int | None], None]) -> None:
        """Return when it can be read; in the foreground when it is gone, and all is stored.

        say  called when it can be read, with the pid of its server, if there is one
        """
        layout, where = self.settings.layout, self.mountpoint
        is_to_store = bool(
            self.to_store or (self.image.is_merged and self.settings.content_cache_urls)
        )
        tree_here = chosen_tree(self.front, self.image, layout, context=self.context)
        with made_mountpoint(where), tree_here as tree:
            if tree is not None:
                mount_tree(tree, self.image, layout, where)
                if is_to_store and not self.foreground:
                    with self._unmounted_if_it_raises():
                        leave_behind(self._store, log_folder=self.log_folder)
                say(None)
                if is_to_store and self.foreground:
                    self._store(lambda: None)
            elif self.foreground:
                self._serve(lambda: say(os.getpid()))
            else:
                say(leave_behind(self._serve, log_folder=self.log_folder))

    def _serve(self, on_ready: Callable[[], None]) -> None:
        from clipfs.mount.server import serve  # FUSE, without which the kernel's own mount does

        fill = None
        if self.background_fill != "off":
            from clipfs.cache.room import room_to_fill
            from clipfs.tiers.background import FillSettings

            fill = FillSettings(
                which=self.background_fill,
                room_bytes=lambda: room_to_fill(self.settings.layout, self.limits),
            )
        self._mark()

        async def main() -> None:
            await serve(
                self.image,
                self.settings,
                self.mountpoint,
                to_store=self.to_store,
                on_ready=on_ready,
                context=self.context,
                fill=fill,
            )

        trio.run(main)

    def _store(self, on_ready: Callable[[], None]) -> None:
        from clipfs.mount.server import store

        self._mark()

        async def main() -> None:
            await store(self.image, self.settings, to_store=self.to_store, on_ready=on_ready)

        trio.run(main)

    def _mark(self) -> None:
        """Say what will be stored, in the process that will store it."""
        for layer in self.to_store:
            mark_storing(self.settings.layout, layer.cache_key)

    @contextmanager
    def _unmounted_if_it_raises(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            unmount(self.settings.layout, self.mountpoint, wait_s=0)
            raise
