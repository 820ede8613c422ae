"""From a path to an inode of an image index, as a process inside that tree would find it."""

import stat

from clipfs.tree.node import MAX_SYMLINKS
from clipfs.tree.reader import ImageIndex, Nid


def resolve(index: ImageIndex, path: bytes, *, follow_last: bool = True) -> Nid | None:
    """The inode at path, through symlinks, clamped to the root; None if there is none.

    follow_last  False: a symlink that path ends in is what is found
    """
    trail = [index.root]
    todo = _parts(path)
    symlinks = 0
    while todo:
        part = todo.pop()
        if not stat.S_ISDIR(index.inode(trail[-1]).mode):
            return None
        if part == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        nid = index.lookup(trail[-1], part)
        if nid is None:
            return None
        if stat.S_ISLNK(index.inode(nid).mode) and (todo or follow_last):
            symlinks += 1
            if symlinks > MAX_SYMLINKS:
                return None
            target = index.target(nid)
            if target.startswith(b"/"):
                del trail[1:]
            todo += _parts(target)
        else:
            trail.append(nid)
    return trail[-1]


def _parts(path: bytes) -> list[bytes]:
    """Its components, the first one last."""
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
