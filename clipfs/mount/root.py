"""Readies a `--root` for whoever is about to use it: its folders, and the state of this boot.

`run/boot` holds the id of the boot that `run/` speaks of. A root that comes from an earlier
boot is told by it from one whose processes were restarted: of the former nothing lives, so
records, locks and the processes that files name are of the past, even where a number of theirs
is in use again.
"""

import fcntl
import os
from pathlib import Path

from clipfs import errors
from clipfs.layer.layout import LOCKS, Layout
from clipfs.log import log
from clipfs.mount import counters, records
from clipfs.mount.mountinfo import read_mounts
from clipfs.system.cached import read_regular
from clipfs.system.durable import naming
from clipfs.system.processes import boot_id
from clipfs.tiers import storing


def ready_root(layout: Layout) -> None:
    """Make what is missing, refuse what cannot work, and end what an earlier boot began.

    Raises  InvalidInput if a folder that files are renamed from or to is on a file system of
            its own; NodeFault if an entry is of another kind than ours; OSError if the disk refuses
    """
    layout.make()
    _refuse_other_file_systems(layout)
    path = layout.run / "boot"
    if _says_this_boot(path):
        return
    was_there = path.exists()
    if was_there and not path.is_file():
        raise errors.NodeFault(f"{path} is no file; move it away, clipfs makes it again")
    with naming(path), path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known, ours = file.read(), boot_id().encode()
        if known == ours:
            return
        if was_there:  # empty, too: a power cut may have taken what it said
            log.info("the node was booted since this root was used", root=str(layout.root))
            _end_earlier_boot(layout)
        file.truncate(0)
        file.write(ours)
        file.flush()
        os.fsync(file.fileno())


def _says_this_boot(path: Path) -> bool:
    """A look, without writing: a root may have become read-only."""
    try:
        return read_regular(path) == boot_id().encode()
    except OSError:
        return False


def _refuse_other_file_systems(layout: Layout) -> None:
    root = os.stat(layout.root).st_dev
    mounted = {mount.mountpoint for mount in read_mounts()}
    for folder in (layout.cache, layout.partial, layout.index):
        if os.stat(folder).st_dev != root or Path(os.path.realpath(folder)) in mounted:
            raise errors.InvalidInput(
                f"--root {layout.root}: {folder.name}/ is on another file system, or a mount of "
                "its own; payloads are renamed into place, so put the whole root on one"
            )


def _end_earlier_boot(layout: Layout) -> None:
    """Volumes are the driver's affair (`csi.publisher`), whose records say their boot too."""
    store = records.mounts(layout)
    for record_id, record in store.all().items():
        if record.boot_id != boot_id():
            store.remove(record_id)
    storing.forget_processes(layout)
    counters.fold_all(layout)
    sockets = [path for path in layout.run.iterdir() if path.is_socket()]
    locks = [path for kind in LOCKS for path in layout.run.glob(kind)]
    for path in (*locks, *sockets):
        path.unlink(missing_ok=True)
