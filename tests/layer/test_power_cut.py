"""A power cut at any moment: what is marked is right, and the next fill completes the layer."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clipfs.layer.layout import Layout
from tests.layer.partials import CHUNKS, KEY, PAYLOAD, opened, present, write


class PowerCut(BaseException):
    """The power is gone; nothing in the process may handle that."""


class Disk:
    """Counts what reaches the disk, and cuts the power before step `cut`.

    Of a payload only what was fsynced survives; a map survives as it was last written, the
    worst that a file system may do.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
        self.steps = 0
        self._cut = cut
        self._synced: dict[int, bytes] = {}
        for name in ("pwrite", "fdatasync", "fsync", "rename", "chmod", "ftruncate"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if self.steps == self._cut:
                raise PowerCut
            self.steps += 1
            result = real(*args)
            if name in ("fdatasync", "fsync"):
                status = os.fstat(args[0])
                if stat.S_ISREG(status.st_mode):
                    self._synced[status.st_ino] = os.pread(args[0], status.st_size, 0)
            return result

        return call

    def lose_what_was_not_synced(self, folder: Path) -> None:
        for path in folder.glob(f"{KEY}*"):
            if path.suffix != ".chunks":
                path.chmod(0o600)
                path.write_bytes(self._synced.get(path.stat().st_ino, b""))


def scenario(layout: Layout) -> None:
    with opened(layout) as partial:
        write(partial, 0, 3)
        partial.sync()
        write(partial, 1, 2, 4)
        partial.promote()


@pytest.mark.parametrize("zeros", [False, True], ids=["size-lost", "size-kept"])
def test_a_power_cut_at_any_moment_leaves_no_chunk_marked_that_is_wrong(
    tmp_path: Path, next_boot: Callable[[], None], zeros: bool
) -> None:
    for layout, cut in _roots(tmp_path):
        with pytest.MonkeyPatch.context() as patched:
            disk = Disk(patched, cut)
            try:
                scenario(layout)
            except PowerCut:
                finished = False
            else:
                finished = True
        for folder in (layout.partial, layout.cache):
            disk.lose_what_was_not_synced(folder)
            if zeros and (path := layout.partial_payload(KEY)).exists():
                os.truncate(path, len(PAYLOAD))
        next_boot()
        if layout.payload(KEY).exists():
            assert layout.payload(KEY).read_bytes() == PAYLOAD
        else:
            with opened(layout) as partial:
                present(partial)
                write(partial, *range(CHUNKS))
                partial.promote()
            assert layout.payload(KEY).read_bytes() == PAYLOAD
        if finished:
            assert cut > 15
            return


def _roots(tmp_path: Path) -> Iterator[tuple[Layout, int]]:
    """An empty root and the step to cut at, from the first step on."""
    for cut in range(1000):
        layout = Layout(tmp_path / str(cut))
        layout.make()
        yield layout, cut
