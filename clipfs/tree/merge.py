"""Layers' entries, lowest layer first, become one tree: whiteouts, links, replaced types.

Each layer is applied in two steps, so that the order inside it does not matter: first its
whiteouts hide what lower layers brought, then its entries are added in archive order. Where
unpackers differ:

    a parent that is a symlink     is followed inside the tree, clamped to the root
    a parent that is a file        is replaced by a folder, as by any folder entry
    a parent that is missing       is a folder 0755, root's, time 0
    a hard link to a later entry   of the same layer waits until that layer's end
    a hard link to a folder        is refused
    a duplicate                    the last one in the layer wins

Source: OCI image specification, "Image Layer Filesystem Changeset"; behaviour compared with
`umoci unpack`.
"""

from collections.abc import Iterable, Iterator

from clipfs import errors
from clipfs.layer.index import Entry, EntryKind
from clipfs.layer.names import shown

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
WHITEOUT_META = b".wh..wh."
MAX_SYMLINKS = 40
"""As the kernel's own limit on symlinks in one path."""


class Node:
    """An inode of the merged tree; hard links share one.

    layer         number of the layer that brought it; of a file also where its bytes are
    children      of a folder: name -> node; None for what is no folder
    parent        of a folder: the folder that holds it, of the root itself; set at the end
    nid           its number in the image index, set by the writer
    """

    __slots__ = ("children", "entry", "layer", "links", "nid", "parent")

    def __init__(self, entry: Entry, layer: int) -> None:
        self.entry = entry
        self.layer = layer
        self.links = 0
        self.nid = 0
        self.parent = self
        self.children: dict[bytes, Node] | None = {} if entry.kind == EntryKind.DIRECTORY else None


def merge(layers: Iterable[Iterable[Entry]]) -> Node:
    """The root of the merged tree, links counted; CorruptImage names the path at fault."""
    root = Node(_implied_folder(), 0)
    for number, entries in enumerate(layers):
        _apply(root, number, list(entries))
    _count_links(root)
    return root


def walk(root: Node) -> Iterator[Node]:
    """Every inode once, parents before children, in a fixed order."""
    seen: set[int] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        for name in sorted(node.children or (), reverse=True):
            child = node.children[name]  # type: ignore[index] # or () made the loop empty
            if id(child) not in seen:
                seen.add(id(child))
                pending.append(child)


def _apply(root: Node, number: int, entries: list[Entry]) -> None:
    for entry in entries:
        folder, _, name = entry.path.rpartition(b"/")
        if name.startswith(WHITEOUT):
            _hide(root, folder, name)
    late: list[Entry] = []
    for entry in entries:
        if entry.path.rpartition(b"/")[2].startswith(WHITEOUT):
            continue
        if entry.kind == EntryKind.HARDLINK:
            if not _link(root, number, entry):
                late.append(entry)
        else:
            _add(root, number, entry)
    while late:  # a link may point at another late link
        still = [entry for entry in late if not _link(root, number, entry)]
        if len(still) == len(late):
            raise errors.CorruptImage(
                f"hard link {shown(still[0].path)} points at {shown(still[0].target)}, "
                "which is not in the image"
            )
        late = still


def _hide(root: Node, folder: bytes, name: bytes) -> None:
    if name in (WHITEOUT, b".wh..", b".wh..."):
        raise errors.CorruptImage(f"whiteout {shown(folder + b'/' + name)} names no entry")
    if name.startswith(WHITEOUT_META) and name != OPAQUE:
        return
    parent = _find(root, folder)
    if parent is None or parent.children is None:
        return
    if name == OPAQUE:
        parent.children.clear()
    else:
        parent.children.pop(name[len(WHITEOUT) :], None)


def _add(root: Node, number: int, entry: Entry) -> None:
    folder, _, name = entry.path.rpartition(b"/")
    if not entry.path:
        if entry.kind == EntryKind.DIRECTORY:
            root.entry, root.layer = entry, number
            return
        raise errors.CorruptImage("the root of the image is not a folder")
    children = _parent(root, number, folder)
    old = children.get(name)
    if old is not None and old.children is not None and entry.kind == EntryKind.DIRECTORY:
        old.entry, old.layer = entry, number
    else:
        children[name] = Node(entry, number)


def _link(root: Node, number: int, entry: Entry) -> bool:
    target = _find(root, entry.target, follow_last=False)
    if target is None:
        return False
    if target.children is not None:
        raise errors.CorruptImage(
            f"hard link {shown(entry.path)} points at the folder {shown(entry.target)}"
        )
    folder, _, name = entry.path.rpartition(b"/")
    if not name:
        raise errors.CorruptImage("the root of the image is a hard link")
    _parent(root, number, folder)[name] = target
    return True


def _parent(root: Node, number: int, path: bytes) -> dict[bytes, Node]:
    """The children of the folder at path, made where it is missing."""
    node = _resolve(root, path, make=number)
    assert node is not None
    assert node.children is not None
    return node.children


def _find(root: Node, path: bytes, *, follow_last: bool = True) -> Node | None:
    return _resolve(root, path, follow_last=follow_last)


def _resolve(
    root: Node, path: bytes, *, make: int | None = None, follow_last: bool = True
) -> Node | None:
    """The node at path, through symlinks clamped to the root.

    make  number of the layer in whose name missing folders are made, and files replaced
    """
    trail = [root]
    todo = [part for part in reversed(path.split(b"/")) if part]
    symlinks = 0
    while todo:
        part = todo.pop()
        if part == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        children = trail[-1].children
        if children is None:
            return None
        node = children.get(part)
        if node is not None and node.entry.kind == EntryKind.SYMLINK and (todo or follow_last):
            symlinks += 1
            if symlinks > MAX_SYMLINKS:
                raise errors.CorruptImage(f"too many symlinks on the way to {shown(path)}")
            target = node.entry.target
            if target.startswith(b"/"):
                del trail[1:]
            todo += [one for one in reversed(target.split(b"/")) if one not in (b"", b".")]
            continue
        if make is not None and (node is None or node.children is None):
            node = children[part] = Node(_implied_folder(), make)
        if node is None:
            return None
        trail.append(node)
    return trail[-1]


def _implied_folder() -> Entry:
    return Entry(path=b"", kind=EntryKind.DIRECTORY, mode=0o755)


def _count_links(root: Node) -> None:
    """Set parents, and nlink as the kernel counts: names; of a folder 2 and its subfolders."""
    root.links = 2
    pending = [root]
    while pending:
        folder = pending.pop()
        for child in (folder.children or {}).values():
            if child.children is None:
                child.links += 1
            else:
                child.links = 2
                child.parent = folder
                folder.links += 1
                pending.append(child)
