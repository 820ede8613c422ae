"""Layers' entries, lowest layer first, become one tree: whiteouts, links, replaced types.

Each layer is applied in two steps, so that the order inside it does not matter: first its
whiteouts, all judged by the lower layers alone, hide what those brought, then its entries are
added in archive order. Where unpackers differ:

    a parent that is a symlink     is followed inside the tree, clamped to the root
    a parent that is a file        is replaced by a folder, as by any folder entry
    a parent that is missing       is a folder 0755, root's, time 0
    a folder over a symlink        replaces it; whiteouts in it reach nothing behind the symlink
    a hard link to a later entry   of the same layer keeps its place until that layer's end
    a hard link to what is hidden  by its own layer reaches the lower file, wherever the whiteout
                                   stands; an entry of its layer at that place comes first
    a hard link to a folder        is refused
    a duplicate                    the last one in the layer wins

Source: OCI image specification, "Image Layer Filesystem Changeset"; behaviour compared with
`umoci unpack`.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from clipfs import errors
from clipfs.layer.archive.names import shown
from clipfs.layer.index import DIRECTORY, HARDLINK, SYMLINK, Entry
from clipfs.layer.limits import MAX_DEPTH
from clipfs.tree.node import Node, count_links, implied_folder, resolve, trail_to

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
WHITEOUT_META = b".wh..wh."
_NO_NAME = (WHITEOUT, b".wh..", b".wh...")


def merge(layers: Iterable[Iterable[Entry]]) -> Node:
    """The root of the merged tree, links counted; CorruptImage names the path at fault."""
    root = Node(implied_folder(), 0)
    for number, entries in enumerate(layers):
        _apply(root, number, list(entries))
    count_links(root)
    return root


def _apply(root: Node, number: int, entries: list[Entry]) -> None:
    whiteouts = [entry for entry in entries if WHITEOUT in entry.path and _is_whiteout(entry)]
    targets: dict[bytes, Node] = {}
    if whiteouts:
        entries = [entry for entry in entries if not _is_whiteout(entry)]
        targets = _linked(root, entries)
        _hide(root, whiteouts, entries)
    lower = {
        target: node
        for target, node in targets.items()
        if resolve(root, target, follow_last=False) is not node
    }
    waiting: list[_Waiting] = []
    places = _Places(root, number)
    for entry in entries:
        if entry.kind is HARDLINK:
            _link(places, entry, waiting)
        else:
            _add(places, entry)
    _settle(root, waiting, lower)
    assert root.children is not None
    for name in [name for name in root.children if name.startswith(WHITEOUT_META)]:
        del root.children[name]  # what aufs kept for itself: links may have pointed into it


def _is_whiteout(entry: Entry) -> bool:
    return entry.path.rpartition(b"/")[2].startswith(WHITEOUT)


def _linked(root: Node, entries: list[Entry]) -> dict[bytes, Node]:
    """Target -> node of the lower layers, of the hard links of a layer that has whiteouts."""
    targets = {entry.target for entry in entries if entry.kind is HARDLINK}
    found = {target: resolve(root, target, follow_last=False) for target in targets}
    return {target: node for target, node in found.items() if node is not None}


def _hide(root: Node, whiteouts: list[Entry], entries: list[Entry]) -> None:
    """Apply the whiteouts of a layer; all are found before the first one hides anything.

    entries  the layer's others
    """
    new = {entry.path for entry in entries if _replaces_symlink(root, entry)}
    hidden: list[tuple[dict[bytes, Node], bytes]] = []
    for whiteout in whiteouts:
        folder, _, name = whiteout.path.rpartition(b"/")
        if name in _NO_NAME:
            raise errors.CorruptImage(f"whiteout {shown(folder + b'/' + name)} names no entry")
        if name.startswith(WHITEOUT_META) and name != OPAQUE:
            continue
        if new and not new.isdisjoint(_with_parents(folder)):
            continue
        parent = resolve(root, folder)
        if parent is not None and parent.children is not None:
            hidden.append((parent.children, name))
    for children, name in hidden:
        if name == OPAQUE:
            children.clear()
        else:
            children.pop(name[len(WHITEOUT) :], None)


def _replaces_symlink(root: Node, entry: Entry) -> bool:
    if entry.kind is not DIRECTORY:
        return False
    lower = resolve(root, entry.path, follow_last=False)
    return lower is not None and lower.entry.kind is SYMLINK


def _with_parents(path: bytes) -> Iterator[bytes]:
    while path:
        yield path
        path = path.rpartition(b"/")[0]


class _Folder(NamedTuple):
    children: dict[bytes, Node]
    depth: int


class _Places:
    """Where the entries of one layer, the number-th, go."""

    def __init__(self, root: Node, number: int) -> None:
        self.root = root
        self.number = number
        self._known: dict[bytes, _Folder] = {}

    def children(self, path: bytes) -> dict[bytes, Node]:
        """Those of the folder at path, which is made where it is missing."""
        found = self._known.get(path)
        if found is None:
            found = self._known[path] = self._below_known(path) or self._walked_to(path)
        return found.children

    def _below_known(self, path: bytes) -> "_Folder | None":
        """The folder at path, if the one above it is known: most are, and ways are long."""
        parent, _, name = path.rpartition(b"/")
        above = self._known.get(parent)
        node = above.children.get(name) if above else None
        if above is None or node is None or node.children is None or above.depth >= MAX_DEPTH:
            return None
        return _Folder(node.children, above.depth + 1)

    def _walked_to(self, path: bytes) -> "_Folder":
        trail = trail_to(self.root, path, make=self.number)
        assert trail is not None
        assert trail[-1].children is not None
        return _Folder(trail[-1].children, len(trail))

    def put(self, children: dict[bytes, Node], name: bytes, node: Node) -> None:
        """Set name in children to node; what that replaces may have been on the way elsewhere."""
        old = children.get(name)
        if old is not None and (old.children is not None or old.entry.kind is SYMLINK):
            self._known.clear()
        children[name] = node


def _add(places: _Places, entry: Entry) -> None:
    folder, _, name = entry.path.rpartition(b"/")
    if not entry.path:
        if entry.kind is DIRECTORY:
            places.root.entry, places.root.layer = entry, places.number
            return
        raise errors.CorruptImage("the root of the image is not a folder")
    children = places.children(folder)
    old = children.get(name)
    if old is not None and old.children is not None and entry.kind is DIRECTORY:
        old.entry, old.layer = entry, places.number
    else:
        places.put(children, name, Node(entry, places.number))


class _Waiting(NamedTuple):
    """A name that a hard link to a later entry has taken: link stands in children there."""

    children: dict[bytes, Node]
    name: bytes
    link: Node


def _link(places: _Places, entry: Entry, waiting: list[_Waiting]) -> None:
    folder, _, name = entry.path.rpartition(b"/")
    if not name:
        raise errors.CorruptImage("the root of the image is a hard link")
    target = resolve(places.root, entry.target, follow_last=False)
    if target is not None and target.children is not None:
        raise _linked_folder(entry)
    children = places.children(folder)
    if target is None or target.entry.kind is HARDLINK:
        target = Node(entry, places.number)
        waiting.append(_Waiting(children, name, target))
    places.put(children, name, target)


def _settle(root: Node, waiting: list[_Waiting], lower: dict[bytes, Node]) -> None:
    """Put an inode where a link to a later entry stands; it may lead to another such link."""
    inodes: dict[Node, Node] = {}
    for _, _, link in waiting:
        chain: dict[Node, None] = {}
        node = link
        while node.entry.kind is HARDLINK and node not in inodes:
            chain[node] = None
            target = resolve(root, node.entry.target, follow_last=False)
            target = target or lower.get(node.entry.target)
            if target is None or target in chain:
                raise errors.CorruptImage(
                    f"hard link {shown(node.entry.path)} points at {shown(node.entry.target)}, "
                    "which is not in the image"
                )
            if target.children is not None:
                raise _linked_folder(node.entry)
            node = target
        inodes.update(dict.fromkeys(chain, inodes.get(node, node)))
    for children, name, link in waiting:
        if children.get(name) is link:  # else a later entry has replaced it
            children[name] = inodes[link]


def _linked_folder(entry: Entry) -> errors.CorruptImage:
    return errors.CorruptImage(
        f"hard link {shown(entry.path)} points at the folder {shown(entry.target)}"
    )
