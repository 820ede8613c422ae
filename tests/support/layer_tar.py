"""Writes a layer's tar member by member: wheels, whiteouts, links to lower layers, odd things.

As a builder that saves space would: a file whose content a lower layer has becomes a hard
link to that one. Every folder has a member of its own, before what is in it.
"""

import calendar
import copy
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.images import Packed

MTIME_S = 1_700_000_000

Files = Mapping[bytes, tarfile.TarInfo]
"""Regular files by the digest of their content."""


class Layer:
    """One layer; whiteouts first, since what they hide cannot be linked to."""

    def __init__(self, path: Path, *, owner: tuple[int, int], lower: Files) -> None:
        self._path = path
        self._owner = owner
        self._lower = dict(lower)
        self._own: dict[bytes, tarfile.TarInfo] = {}
        self._folders: set[str] = set()
        self._tar = tarfile.TarFile(path, "w", format=tarfile.PAX_FORMAT, errors="surrogateescape")

    def hide(self, name: str) -> None:
        """Hide what lower layers have at name."""
        folder, _, last = name.rpartition("/")
        self.put(self.member(f"{folder}/.wh.{last}"))
        for digest, info in list(self._lower.items()):
            if info.name == name or info.name.startswith(f"{name}/"):
                del self._lower[digest]

    def unzip(self, wheel: Path, top: str) -> None:
        """All that a wheel installs, below top."""
        with zipfile.ZipFile(wheel) as archive:
            for packed in archive.infolist():
                if packed.is_dir():
                    continue
                mode = packed.external_attr >> 16 & 0o7777 or 0o644
                written_s = calendar.timegm((*packed.date_time, 0, 0, 0))
                mtime = f"{written_s}.{packed.CRC % 10**9:09d}"
                info = self.member(f"{top}/{packed.filename}", mode=mode, pax={"mtime": mtime})
                self.file(info, archive.read(packed))

    def file(self, info: tarfile.TarInfo, data: bytes) -> None:
        """A regular file, or a link if a lower layer has its content."""
        digest = hashlib.sha256(data).digest()
        if data and (same := self._lower.get(digest)):
            return self.link(info.name, same)
        info.size = len(data)
        self.put(info, data)
        self._own.setdefault(digest, info)

    def link(self, name: str, target: tarfile.TarInfo) -> None:
        """A hard link, which says of the inode what the target's own member says."""
        info = copy.copy(target)
        info.name, info.linkname, info.type, info.size = name, target.name, tarfile.LNKTYPE, 0
        self.put(info)

    def member(
        self,
        name: str,
        *,
        kind: bytes = tarfile.REGTYPE,
        mode: int = 0o644,
        pax: Mapping[str, str] | None = None,
    ) -> tarfile.TarInfo:
        """An empty file, or another kind, as this layer has them; pax: extended headers."""
        info = tarfile.TarInfo(name)
        info.type, info.mode = kind, mode
        info.uid, info.gid = self._owner
        info.pax_headers = {"mtime": f"{MTIME_S}.{len(name):09d}", **(pax or {})}
        return info

    def put(self, info: tarfile.TarInfo, data: bytes = b"") -> None:
        """Write a member as it is, its folders before it."""
        parents = info.name.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            folder = "/".join(parents[:depth])
            if folder not in self._folders:
                self._folders.add(folder)
                self._tar.addfile(self.member(folder, kind=tarfile.DIRTYPE, mode=0o755))
        if info.isdir():
            self._folders.add(info.name)
        self._tar.addfile(info, io.BytesIO(data))

    def close(self) -> tuple[Packed, Files]:
        """The layer, and the files that the next one can link to."""
        self._tar.close()
        return Packed(self._path), {**self._own, **self._lower}
