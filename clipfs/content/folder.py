"""A content cache's folder: what lies where in it, whose it is, and the replica's id.

    objects/sha256_<layer>/<page>     its mtime is the layer's last use
    objects/sha256_<layer>.v1.toc     and the other indexes, beside it
    incoming/     uploads, each locked by the process that receives it
    evicted/      layers that are being removed; locked by whoever evicts
    claims/       one file a claim (`clipfs.content.claims`)
    kept          how much is used (`clipfs.content.ledger`)     id     the replica's id
    workers       locked, shared, by each worker process of the owner

One server at a time owns the folder, by a lock on incoming/; its worker processes join it. What
processes have to agree on lies in files.
"""

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipfs import errors
from clipfs.content.keys import layer_of

BLOCK_BYTES = 4096


def cost_of(size: int) -> int:
    """What an object of size bytes is counted as: whole blocks, and one if it is empty."""
    return max(1, -(-size // BLOCK_BYTES)) * BLOCK_BYTES


class Folder:
    """The paths of a folder that this process owns or has joined, for as long as it lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects = path / "objects"
        self.incoming = path / "incoming"
        self.evicted = path / "evicted"
        self.claims = path / "claims"
        self.kept = path / "kept"
        self._lock = -1

    @classmethod
    def own(cls, path: Path) -> "Folder":
        """Make the folder if it is absent, and own it; InvalidInput if another server does."""
        folder = cls(path)
        for one in (folder.objects, folder.incoming, folder.evicted, folder.claims):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder._lock = os.open(folder.incoming, os.O_RDONLY | os.O_DIRECTORY)
        workers = folder._workers_lock()
        try:
            fcntl.flock(folder._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(workers, fcntl.LOCK_EX | fcntl.LOCK_NB)  # none outlived its parent
        except BlockingIOError as error:
            os.close(folder._lock)
            raise errors.InvalidInput(
                f"--dir {path}: another content cache serves it; give this one its own"
            ) from error
        finally:
            os.close(workers)
        return folder

    @classmethod
    def join(cls, path: Path) -> "Folder":
        """The folder that the parent process owns."""
        folder = cls(path)
        folder._lock = folder._workers_lock()
        fcntl.flock(folder._lock, fcntl.LOCK_SH)
        return folder

    def id(self) -> str:
        """The replica's id: made once, the same for as long as the folder is."""
        path = self.path / "id"
        try:
            return str(uuid.UUID(path.read_text().strip()))
        except (FileNotFoundError, ValueError):  # a power cut may have left it empty
            made = str(uuid.uuid4())
        fd, name = tempfile.mkstemp(dir=self.incoming)
        with os.fdopen(fd, "w") as file:
            file.write(made + "\n")
            file.flush()
            os.fsync(fd)
        os.replace(name, path)
        return made

    def add_layer_folders(self) -> None:
        """Give each layer the folder that notes its last use; earlier versions made none."""
        names = os.listdir(self.objects)
        for layer in {layer_of(name) for name in names} - {None, *names}:
            with suppress(OSError):  # on a full disk it stays until the next start
                (self.objects / str(layer)).mkdir(mode=0o700)

    @contextmanager
    def evicting(self) -> Iterator[bool]:
        """Whether the caller may evict: one task of one process at a time."""
        fd = os.open(self.evicted, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)

    def kept_bytes(self) -> int:
        """What all objects cost, counted one by one."""
        return sum(cost_of(size) for size in _sizes(self.objects))

    def transit_bytes(self) -> int:
        """What uploads and evictions take at this moment: few files."""
        return sum(cost_of(size) for top in (self.incoming, self.evicted) for size in _sizes(top))

    def remove_abandoned(self) -> None:
        """Remove uploads whose process has died; to be called under the ledger's lock."""
        for path in self.incoming.iterdir():
            try:
                fd = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            except BlockingIOError:
                pass  # its process lives
            finally:
                os.close(fd)

    def remove_evicted(self) -> None:
        """Remove what has been evicted; to be called by whoever may evict."""
        for path in self.evicted.iterdir():
            shutil.rmtree(path)

    def _workers_lock(self) -> int:
        return os.open(self.path / "workers", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _sizes(top: Path) -> Iterator[int]:
    """The sizes of all files below top; those that go meanwhile are passed over."""
    try:
        with os.scandir(top) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _sizes(Path(entry.path))
                else:
                    try:
                        yield entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue
    except FileNotFoundError:
        return
