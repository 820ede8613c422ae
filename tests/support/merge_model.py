"""The merge once more, slow and plain: one flat dictionary of real path -> item.

Written from the OCI image specification and the table in `clipfs.tree.merge`, not from its
code: no nodes, no children, each rule by searching the whole dictionary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clipfs.layer.index import Entry, EntryKind
from tests.support.tree_views import View, facts_of


class Refused(Exception):
    """The layers make no tree, because of entry."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self.entry = entry


@dataclass(eq=False, slots=True)
class Item:
    """An inode; names that share it hold the same object."""

    entry: Entry
    layer: int

    @property
    def is_folder(self) -> bool:
        return self.entry.kind == EntryKind.DIRECTORY

    @property
    def is_symlink(self) -> bool:
        return self.entry.kind == EntryKind.SYMLINK


Tree = dict[bytes, Item]


def modelled(layers: Sequence[Sequence[Entry]]) -> View:
    """What `view_of_merge` must show of layers; Refused where the merge must refuse them."""
    tree: Tree = {b"": _implied(0)}
    for number, entries in enumerate(layers):
        lower = dict(tree)
        for path in _hidden(tree, entries):
            tree.pop(path, None)
        bared = dict(tree)
        waiting: list[Item] = []
        for entry in entries:
            if not _name(entry.path).startswith(b".wh."):
                _put(tree, number, entry, waiting)
        _settle(tree, waiting, lower, bared)
        for path in [path for path in tree if path.startswith(b".wh..wh.")]:
            del tree[path]
    return _view(tree)


def _hidden(lower: Tree, entries: Sequence[Entry]) -> set[bytes]:
    folders = {entry.path for entry in entries if entry.kind == EntryKind.DIRECTORY}
    hidden: set[bytes] = set()
    for entry in entries:
        name, literal = _name(entry.path), _folder(entry.path)
        if not name.startswith(b".wh."):
            continue
        if name in (b".wh.", b".wh..", b".wh..."):
            raise Refused(entry)
        if name.startswith(b".wh..wh.") and name != b".wh..wh..opq":
            continue
        real = _real(lower, literal)
        if real is None or any(_is_symlink(lower, p) for p in _prefixes(literal) if p in folders):
            continue
        victims = set(_below(lower, real))
        if name != b".wh..wh..opq":
            victim = _join(real, name[4:])
            victims = {victim, *_below(lower, victim)}
        hidden |= victims
    return hidden


def _is_symlink(tree: Tree, path: bytes) -> bool:
    real = _real(tree, path, follow_last=False)
    return real is not None and tree[real].is_symlink


def _put(tree: Tree, number: int, entry: Entry, waiting: list[Item]) -> None:
    item = Item(entry, number)
    if not entry.path and entry.kind != EntryKind.DIRECTORY:
        raise Refused(entry)
    if entry.kind == EntryKind.HARDLINK:
        target = _real(tree, entry.target, follow_last=False)
        if target is not None:
            if tree[target].is_folder:
                raise Refused(entry)
            if tree[target] not in waiting:
                item = tree[target]
        if item.entry is entry:
            waiting.append(item)
    if not entry.path:
        tree[b""] = item
        return
    folder = _real(tree, _folder(entry.path), make=number)
    if folder is None:
        raise Refused(entry)
    path = _join(folder, _name(entry.path))
    if not (path in tree and tree[path].is_folder and item.is_folder):
        _drop(tree, path)
    tree[path] = item


def _settle(tree: Tree, waiting: list[Item], lower: Tree, bared: Tree) -> None:
    """Links that waited for a later entry get its item; one that was replaced needs it too."""
    leads_to: dict[Item, Item] = {}
    for link in waiting:
        place = tree
        target = _real(tree, link.entry.target, follow_last=False)
        if target is None:
            place, target = lower, _real(lower, link.entry.target, follow_last=False)
            if target is not None and _real(bared, link.entry.target, follow_last=False) == target:
                target = None  # no whiteout hides it
        if target is None or place[target].is_folder:
            raise Refused(link.entry)
        leads_to[link] = place[target]
    for _ in waiting:
        leads_to = {link: leads_to.get(item, item) for link, item in leads_to.items()}
    for link, item in leads_to.items():
        if item in waiting:
            raise Refused(link.entry)
    for path, item in tree.items():
        tree[path] = leads_to.get(item, item)


def _real(
    tree: Tree, path: bytes, *, follow_last: bool = True, make: int | None = None
) -> bytes | None:
    """Where path leads, itself free of symlinks; None if there is nothing."""
    return _walk(tree, b"", path.split(b"/"), follow_last, make, 40)


def _walk(
    tree: Tree, at: bytes, parts: list[bytes], follow_last: bool, make: int | None, hops: int
) -> bytes | None:
    parts = [part for part in parts if part not in (b"", b".")]
    if not parts:
        return at
    if not tree[at].is_folder:
        return None
    part, *rest = parts
    if part == b"..":
        return _walk(tree, _folder(at), rest, follow_last, make, hops)
    child = _join(at, part)
    if child in tree and tree[child].is_symlink and (rest or follow_last):
        if not hops:
            return None
        target = tree[child].entry.target
        start = b"" if target.startswith(b"/") else at
        return _walk(tree, start, target.split(b"/") + rest, follow_last, make, hops - 1)
    if make is not None and not (child in tree and tree[child].is_folder):
        tree[child] = _implied(make)
    return _walk(tree, child, rest, follow_last, make, hops) if child in tree else None


def _view(tree: Tree) -> View:
    names: dict[int, list[bytes]] = {}
    for path in sorted(tree, key=lambda path: path.split(b"/") if path else []):
        names.setdefault(id(tree[path]), []).append(path)
    view: View = {}
    for path, item in tree.items():
        same = names[id(item)]
        folders = [p for p in tree if p and _folder(p) == path and tree[p].is_folder]
        nlink = 2 + len(folders) if item.is_folder else len(same)
        view[path] = facts_of(item.entry, layer=item.layer, nlink=nlink, group=same[0])
    return view


def _drop(tree: Tree, path: bytes) -> None:
    for one in [path, *_below(tree, path)]:
        tree.pop(one, None)


def _below(tree: Tree, path: bytes) -> list[bytes]:
    prefix = path + b"/" if path else b""
    return [one for one in tree if one.startswith(prefix) and one != path]


def _implied(layer: int) -> Item:
    return Item(Entry(path=b"", kind=EntryKind.DIRECTORY, mode=0o755), layer)


def _prefixes(path: bytes) -> Iterator[bytes]:
    parts = path.split(b"/")
    return (b"/".join(parts[:end]) for end in range(1, len(parts) + 1))


def _folder(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
