"""One view of a tree, whoever shows it: the merge, the reader of image indexes, the kernel.

Equal trees are equal dictionaries of path -> Facts; the root's path is b"".
"""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from clipfs.layer.index import Entry, EntryKind
from clipfs.tree.node import Node
from clipfs.tree.reader import ImageIndex, Nid

TYPES = {
    EntryKind.FILE: stat.S_IFREG,
    EntryKind.SPARSE: stat.S_IFREG,
    EntryKind.DIRECTORY: stat.S_IFDIR,
    EntryKind.SYMLINK: stat.S_IFLNK,
    EntryKind.CHARACTER: stat.S_IFCHR,
    EntryKind.BLOCK: stat.S_IFBLK,
    EntryKind.FIFO: stat.S_IFIFO,
}


class Facts(NamedTuple):
    """What is known of one name.

    size   of a folder 0: each file system has its own
    where  layer and payload offset of a file's bytes; None if it has none, and in a mount
    group  the first of the names that share the inode
    """

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    nlink: int
    rdev: int
    target: bytes
    xattrs: dict[bytes, bytes]
    where: tuple[int, int] | None
    group: bytes


View = dict[bytes, Facts]


def facts_of(entry: Entry, *, layer: int, nlink: int, group: bytes) -> Facts:
    """What an entry says, once it stands in a tree."""
    return Facts(
        mode=TYPES[entry.kind] | entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=entry.mtime_s * 10**9 + entry.mtime_ns,
        size=len(entry.target) if entry.kind == EntryKind.SYMLINK else entry.size,
        nlink=nlink,
        rdev=os.makedev(entry.rdev_major, entry.rdev_minor),
        target=entry.target,
        xattrs=dict(entry.xattrs),
        where=(layer, entry.payload_offset) if entry.size else None,
        group=group,
    )


def view_of_merge(root: Node) -> View:
    """The tree as `merge` gives it."""
    view: View = {}
    groups: dict[int, bytes] = {}
    pending = [(b"", root)]
    while pending:
        path, node = pending.pop()
        group = groups.setdefault(id(node), path)
        view[path] = facts_of(node.entry, layer=node.layer, nlink=node.links, group=group)
        names = sorted(node.children or {}, reverse=True)
        pending += [(_join(path, name), (node.children or {})[name]) for name in names]
    return view


def view_of_index(index: ImageIndex) -> View:
    """The tree as the reader gives it; also holds that "." and ".." are right."""
    view: View = {}
    groups: dict[int, bytes] = {}
    pending = [(b"", index.root, index.root)]
    while pending:
        path, nid, parent = pending.pop()
        inode = index.inode(nid)
        is_folder = stat.S_ISDIR(inode.mode)
        view[path] = Facts(
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            mtime_ns=inode.mtime_ns,
            size=0 if is_folder else inode.size,
            nlink=inode.nlink,
            rdev=inode.rdev,
            target=index.target(nid) if stat.S_ISLNK(inode.mode) else b"",
            xattrs=index.xattrs(nid),
            where=None if inode.device is None else (inode.device, inode.device_offset),
            group=groups.setdefault(nid, path),
        )
        if is_folder:
            pending += reversed(_children(index, path, nid, parent))
    return view


def _children(
    index: ImageIndex, path: bytes, nid: Nid, parent: Nid
) -> list[tuple[bytes, Nid, Nid]]:
    entries = [entry for _, entry in index.list(nid)]
    found = {entry.name: entry for entry in entries}
    assert [entry.name for entry in entries] == sorted(found)
    assert found.pop(b".").nid == nid
    assert found.pop(b"..").nid == parent
    for entry in found.values():
        assert index.lookup(nid, entry.name) == entry.nid
        assert stat.S_IFMT(index.inode(entry.nid).mode) == entry.kind
    return [(_join(path, entry.name), entry.nid, nid) for entry in found.values()]


def view_of_mount(top: Path) -> View:
    """The tree as the kernel shows it, in the order of names that the kernel has."""
    view: View = {}
    groups: dict[int, bytes] = {}
    root = os.fsencode(top)
    pending = [b""]
    while pending:
        path = pending.pop()
        full = _join(root, path) if path else root
        seen = os.lstat(full)
        is_folder = stat.S_ISDIR(seen.st_mode)
        view[path] = Facts(
            mode=seen.st_mode,
            uid=seen.st_uid,
            gid=seen.st_gid,
            mtime_ns=seen.st_mtime_ns,
            size=0 if is_folder else seen.st_size,
            nlink=seen.st_nlink,
            rdev=seen.st_rdev,
            target=os.readlink(full) if stat.S_ISLNK(seen.st_mode) else b"",
            xattrs=_xattrs(full),
            where=None,
            group=groups.setdefault(seen.st_ino, path),
        )
        if is_folder:
            pending += [_join(path, name) for name in reversed(os.listdir(full))]
    return view


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names}


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
