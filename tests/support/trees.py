"""Compares two directory trees, byte for byte; shares no code with the product.

python -m tests.support.trees REFERENCE TREE
"""

import os
import stat
import sys
from collections import defaultdict
from dataclasses import dataclass, field

PIECE_BYTES = 1 << 20


@dataclass(slots=True)
class Comparison:
    """What was compared, and what differs, as lines."""

    entries: int = 0
    bytes: int = 0
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        verdict = f"{len(self.differences)} differences" if self.differences else "equal"
        shown = "".join(f"\n  {line}" for line in self.differences[:20])
        return f"{self.entries} entries, {self.bytes} bytes of content compared: {verdict}{shown}"


def compare(reference: str, tree: str) -> Comparison:
    """Names, types, modes, owners, sizes (not of folders), mtimes, link counts and groups,
    xattrs, targets, device numbers and every byte."""
    result = Comparison()
    groups: tuple[dict[int, list[bytes]], dict[int, list[bytes]]] = (
        defaultdict(list),
        defaultdict(list),
    )
    pending = [b""]
    while pending:
        path = pending.pop()
        left = os.path.join(os.fsencode(reference), path)
        right = os.path.join(os.fsencode(tree), path)
        names = set(os.listdir(left)) | set(os.listdir(right)) if _is_dir(left, right) else set()
        _compare_one(result, path, left, right, groups)
        for name in sorted(names, reverse=True):
            child = os.path.join(path, name)
            there = [
                os.path.lexists(os.path.join(os.fsencode(t), child)) for t in (reference, tree)
            ]
            if all(there):
                pending.append(child)
            else:
                result.differences.append(
                    f"{child!r}: only in the {'reference' if there[0] else 'tree'}"
                )
    left_links, right_links = (
        sorted(sorted(g) for g in one.values() if len(g) > 1) for one in groups
    )
    if left_links != right_links:
        result.differences.append("names that share an inode differ")
    return result


def _is_dir(left: bytes, right: bytes) -> bool:
    return all(stat.S_ISDIR(os.lstat(one).st_mode) for one in (left, right))


def _compare_one(
    result: Comparison,
    path: bytes,
    left: bytes,
    right: bytes,
    groups: tuple[dict[int, list[bytes]], dict[int, list[bytes]]],
) -> None:
    result.entries += 1
    a, b = os.lstat(left), os.lstat(right)
    facts = ["st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_rdev"]
    if not stat.S_ISDIR(a.st_mode):
        facts += ["st_size", "st_nlink"]
        groups[0][a.st_ino].append(path)
        groups[1][b.st_ino].append(path)
    for fact in facts:
        x, y = getattr(a, fact), getattr(b, fact)
        if x != y:
            result.differences.append(f"{path!r}: {fact} is {x} and {y}")
    if _xattrs(left) != _xattrs(right):
        result.differences.append(f"{path!r}: xattrs are {_xattrs(left)} and {_xattrs(right)}")
    if stat.S_ISLNK(a.st_mode) and stat.S_ISLNK(b.st_mode):
        if os.readlink(left) != os.readlink(right):
            result.differences.append(f"{path!r}: targets differ")
    elif stat.S_ISREG(a.st_mode) and stat.S_ISREG(b.st_mode):
        _compare_content(result, path, left, right)


def _compare_content(result: Comparison, path: bytes, left: bytes, right: bytes) -> None:
    with open(left, "rb") as one, open(right, "rb") as other:
        at = 0
        while True:
            x, y = one.read(PIECE_BYTES), other.read(PIECE_BYTES)
            if x != y:
                result.differences.append(f"{path!r}: bytes from {at} differ")
                return
            if not x:
                return
            at += len(x)
            result.bytes += len(x)


def _xattrs(path: bytes) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


if __name__ == "__main__":
    outcome = compare(sys.argv[1], sys.argv[2])
    print(outcome)
    sys.exit(1 if outcome.differences else 0)
