"""Makes an image's tree appear on the node: by launching `clipfs mount`, once an image.

The server that this leaves behind is nobody's child and outlives the driver; the command
itself does not (`csi.launch`). Credentials reach it through a memory file, never through a
file, an argument or the environment.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Image
from clipfs.image.resolved import Resolved
from clipfs.layer.layout import Layout
from clipfs.mount import records
from clipfs.mount.mountinfo import mounts_at
from clipfs.mount.records import Front
from clipfs.mount.unmount import unmount
from clipfs.system.durable import write_all
from csi.about import fields_for_a_server
from csi.collector import Collector

SERVER_END_S = 2
"""A server ends within milliseconds, unless it still stores layers or is frozen: let it."""


class Mounter(Protocol):
    """Images on this node, each mounted at most once for each front."""

    def mount(self, image: Image, *, front: str, credentials: RegistryConfig) -> Path:
        """Where image's tree is, mounted now or before; ClipError says why it cannot be."""

    def unmount(self, digest: Digest) -> None:
        """Take the image's tree away; done already is done."""

    def mounted(self) -> list[Digest]:
        """The images whose trees are here, alive or dead."""


class _Error(msgspec.Struct):
    code: str
    message: str


class _Outcome(msgspec.Struct):
    error: _Error | None = None


class ClipMounter:
    """Mounts below `run/images/`; options are those of `clipfs mount` that the driver was given.

    An image is at `<cache key>`, whatever its front. Who asks for the other front than it has
    gets it at `<cache key>.<front>`.
    """

    def __init__(self, layout: Layout, options: Sequence[str], collector: Collector) -> None:
        self._layout = layout
        self._options = options
        self._collector = collector
        self._folder = layout.run / "images"

    def mount(self, image: Image, *, front: str, credentials: RegistryConfig) -> Path:
        place = self._folder / cache_key(image.digest)
        shown = self._front_at(place)
        if shown is not None and front not in ("auto", shown):
            place = place.with_name(f"{place.name}.{front}")
            shown = self._front_at(place)
        if shown is not None:
            return place
        unmount(self._layout, place, wait_s=0)  # a mount whose server died serves nobody
        self._collector.make_room()
        reference = image.reference.with_digest(image.digest)
        fd = os.memfd_create("registry-config", 0)
        resolved = os.memfd_create("resolved", 0)
        try:
            write_all(fd, credentials.to_json(), 0)
            write_all(resolved, msgspec.json.encode(Resolved.of(image)), 0)
            command = [
                *(sys.executable, "-m", "csi.launch", str(os.getpid())),
                *("mount", str(reference), str(place)),
                *("--json", "--front", front, "--registry-config", f"/dev/fd/{fd}"),
                *("--resolved", f"/dev/fd/{resolved}"),
                *("--log-to", "stderr", "--log-fields", fields_for_a_server()),
                *self._options,
            ]
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                pass_fds=(fd, resolved),
                start_new_session=True,
                check=False,
            )
        finally:
            os.close(fd)
            os.close(resolved)
            self._collector.soon()
        _raise_if_failed(done, str(image.reference))
        return place

    def unmount(self, digest: Digest) -> None:
        for place in self._places():
            if _digest_at(place) == digest:
                unmount(self._layout, place, wait_s=SERVER_END_S)
                with suppress(OSError):
                    place.rmdir()
        self._collector.soon()

    def mounted(self) -> list[Digest]:
        return list(dict.fromkeys(_digest_at(place) for place in self._places()))

    def _places(self) -> list[Path]:
        return sorted(self._folder.iterdir()) if self._folder.exists() else []

    def _front_at(self, place: Path) -> Front | None:
        """The front of the living mount at place; None if there is none."""
        for mount in mounts_at(place)[-1:]:
            for record in records.mounts(self._layout).all().values():
                if records.is_answered(record) and records.is_mount_of(record, mount):
                    return record.front
        return None


def _digest_at(place: Path) -> Digest:
    return Digest(place.name.partition(".")[0].replace("_", ":", 1))


def _raise_if_failed(done: subprocess.CompletedProcess[bytes], image: str) -> None:
    try:
        outcome = msgspec.json.decode(done.stdout, type=_Outcome)
    except msgspec.DecodeError as error:
        raise errors.NodeFault(
            f"{image}: clipfs mount ended with status {done.returncode} and without a word; see "
            "the driver's log"
        ) from error
    if outcome.error is not None:
        said = outcome.error.message
        raise errors.error_of_code(
            outcome.error.code, said if image in said else f"{image}: {said}"
        )
