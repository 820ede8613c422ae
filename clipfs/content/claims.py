"""Claims: of many nodes that lack a layer one downloads it, and the others see its progress.

A claim is a small file, so it outlives the server's process, and all worker processes see the
same. It lapses by this machine's clock, LAPSE_S after its last renewal. If the clock is set, claims
lapse early, never late: then a layer is downloaded twice.

Not here: HTTP (`clipfs.content.claiming`).
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import msgspec

LAPSE_S = 15
"""Holders renew every 3 s: four renewals may be lost."""

Holder = Annotated[str, msgspec.Meta(pattern=r"\A[!-~]{1,128}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Progress(msgspec.Struct, frozen=True):
    """How far the holder is.

    downloaded_bytes, total_bytes  of the blob
    payload_bytes, stored_bytes    of the payload: decompressed, and stored as pages
    """

    downloaded_bytes: Count = 0
    payload_bytes: Count = 0
    total_bytes: Count = 0
    stored_bytes: Count = 0


class Claim(msgspec.Struct, frozen=True):
    """Who holds a claim, and for how long if it is not renewed."""

    holder: Holder
    progress: Progress
    seconds_left: float


class _Record(msgspec.Struct, frozen=True):
    holder: Holder
    progress: Progress
    lapses_ns: int


class Claims:
    """All claims of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def claim(self, key: str, holder: str, progress: Progress) -> Claim:
        """The claim on key: holder's, new or renewed, unless another one holds it."""
        with self._locked():
            held = self._read(key)
            if held is not None and held.holder != holder:
                return held
            if held is None:
                self._remove_lapsed()
            lapses_ns = time.time_ns() + LAPSE_S * 10**9
            record = _Record(holder=holder, progress=progress, lapses_ns=lapses_ns)
            new = self._folder / ".new"
            new.write_bytes(msgspec.json.encode(record))
            os.replace(new, self._folder / key)
            return Claim(holder=holder, progress=progress, seconds_left=LAPSE_S)

    def holder(self, key: str) -> str | None:
        """Who holds the claim on key now."""
        held = self._read(key)
        return None if held is None else held.holder

    def release(self, key: str, holder: str) -> Claim | None:
        """End the claim if it is holder's; another one's is returned, and stays."""
        with self._locked():
            held = self._read(key)
            if held is not None and held.holder != holder:
                return held
            (self._folder / key).unlink(missing_ok=True)
            return None

    def _read(self, key: str) -> Claim | None:
        """None if nobody holds it, or it has lapsed."""
        try:
            record = msgspec.json.decode((self._folder / key).read_bytes(), type=_Record)
        except (FileNotFoundError, msgspec.DecodeError):  # a power cut may have emptied it
            return None
        left_s = (record.lapses_ns - time.time_ns()) / 10**9
        if not 0 < left_s <= LAPSE_S:
            return None
        return Claim(holder=record.holder, progress=record.progress, seconds_left=left_s)

    def _remove_lapsed(self) -> None:
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                if self._read(path.name) is None:
                    path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
