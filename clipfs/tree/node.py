"""The merged tree while it is made: inodes that hard links share, and the way to them by path.

Not here: what layers do to it (`clipfs.tree.merge`).
Source: path_resolution(7), within a root that nothing leaves.
"""

from collections.abc import Iterator

from clipfs import errors
from clipfs.layer.archive.names import shown
from clipfs.layer.index import DIRECTORY, SYMLINK, Entry
from clipfs.layer.limits import MAX_COMPONENT_BYTES, MAX_DEPTH

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
        self.children: dict[bytes, Node] | None = {} if entry.kind is DIRECTORY else None


def walk(root: Node) -> Iterator[Node]:
    """Every inode once, parents before children, in a fixed order; its links are counted."""
    seen: set[int] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        for name in sorted(node.children or (), reverse=True):
            child = node.children[name]  # type: ignore[index] # or () made the loop empty
            if child.links > 1 and child.children is None:  # else it has no other name
                if id(child) in seen:
                    continue
                seen.add(id(child))
            pending.append(child)


def resolve(root: Node, path: bytes, *, follow_last: bool = True) -> Node | None:
    """The node at path, through symlinks clamped to the root; None if there is none."""
    trail = trail_to(root, path, follow_last=follow_last)
    return trail[-1] if trail else None


def trail_to(
    root: Node, path: bytes, *, make: int | None = None, follow_last: bool = True
) -> list[Node] | None:
    """From the root to the node at path, as `resolve`.

    make    number of the layer in whose name missing folders are made, and files replaced
    Raises  CorruptImage if no folder can be made there
    """
    trail = [root]
    todo = [part for part in reversed(path.split(b"/")) if part]
    symlinks = 0
    while todo:
        part = todo.pop()
        children = trail[-1].children
        if children is None:
            return None
        if part == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        node = children.get(part)
        if node is not None and node.entry.kind is SYMLINK and (todo or follow_last):
            symlinks += 1
            if symlinks > MAX_SYMLINKS:
                if make is None:
                    return None
                raise errors.CorruptImage(f"too many symlinks on the way to {shown(path)}")
            target = node.entry.target
            if target.startswith(b"/"):
                del trail[1:]
            todo += [one for one in reversed(target.split(b"/")) if one not in (b"", b".")]
            continue
        if make is not None and (node is None or node.children is None):
            if len(part) > MAX_COMPONENT_BYTES:  # from a symlink's target; names were checked
                raise errors.CorruptImage(
                    f"a component of the way to {shown(path)} is over {MAX_COMPONENT_BYTES} bytes"
                )
            node = children[part] = Node(implied_folder(), make)
        if node is None:
            return None
        trail.append(node)
        if make is not None and len(trail) > MAX_DEPTH:
            raise errors.CorruptImage(f"{shown(path)} is more than {MAX_DEPTH} folders deep")
    return trail


def implied_folder() -> Entry:
    return Entry(path=b"", kind=DIRECTORY, mode=0o755)


def count_links(root: Node) -> None:
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
