"""Which of this machine's files make up the image: Debian packages and what they depend on.

A layer's packages come with all that they need and that no lower layer has, so that programs
run from the image's tree alone. Pure but for `installed_packages` and `files_of`.
"""

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from demo.stage import NotAsPromised

_FORMAT = "${db:Status-Status}\t${Package}\t${Provides}\t${Pre-Depends}, ${Depends}\n"
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The installed packages: each one's needs, a list of alternatives apiece, and who provides."""

    needs: Mapping[str, Sequence[Sequence[str]]]
    providers: Mapping[str, str]

    def package(self, name: str) -> str | None:
        """The installed package that name stands for, real or virtual."""
        return name if name in self.needs else self.providers.get(name)


def parse_status(text: str) -> Installed:
    """Lines of dpkg-query in `_FORMAT`."""
    needs: dict[str, list[list[str]]] = {}
    providers: dict[str, str] = {}
    for line in text.splitlines():
        status, package, provides, depends = line.split("\t")
        if status != "installed":
            continue
        groups = (_names(group.split("|")) for group in depends.split(","))
        needs[package] = [group for group in groups if group]
        for name in _names(provides.split(",")):
            providers.setdefault(name, package)
    return Installed(needs=needs, providers=providers)


def closure(roots: Iterable[str], installed: Installed, *, without: Iterable[str]) -> list[str]:
    """roots and what they need, directly or not, in that order, but for `without`.

    Raises  NotAsPromised if a root is not installed; a need that is absent is passed over, as
            dpkg itself has judged it
    """
    seen, found, todo = set(without), list[str](), list(roots)
    if absent := [root for root in todo if installed.package(root) is None]:
        raise NotAsPromised(f"not installed: {' '.join(absent)}; run `make packages`")
    while todo:
        package = installed.package(todo.pop(0))
        if package is None or package in seen:
            continue
        seen.add(package)
        found.append(package)
        for alternatives in installed.needs[package]:
            todo += [name for name in alternatives if installed.package(name)][:1]
    return found


def _names(words: Iterable[str]) -> list[str]:
    """Package names out of `name:any (>= 1.2)` and the like."""
    return [match[0] for word in words if (match := _NAME.match(word.strip()))]


def installed_packages() -> Installed:
    return parse_status(_said("dpkg-query", "--show", f"--showformat={_FORMAT}"))


def files_of(packages: Sequence[str]) -> list[str]:
    """Absolute paths of the packages' files, folders included, as they lie on this machine."""
    listed = _said("dpkg-query", "--listfiles", *packages).splitlines()
    return sorted({path for name in listed for path in _on_disk(name)})


def _on_disk(name: str) -> Iterator[str]:
    """Where a package's file is: below /usr/lib where /lib is a link to it, and the link too."""
    folder, base = os.path.split(name)
    if not name.startswith("/") or not base or not os.path.lexists(name):
        return
    if os.path.islink(first := "/" + name.split("/")[1]):
        yield first
    yield os.path.join(os.path.realpath(folder), base)


def _said(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
