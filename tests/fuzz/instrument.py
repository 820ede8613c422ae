"""Loads the modules under test so that libFuzzer sees their branches and comparisons.

One of them may be loaded with a line changed, a planted defect: in this process alone, and
without touching a file, as `tests.support.without` does it.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

import atheris

from tests.support.without import changed


class Change(NamedTuple):
    """In module, old (which stands there once) becomes new."""

    module: str
    old: str
    new: str


class _Loader(importlib.machinery.SourceFileLoader):
    change: Change | None = None

    def get_code(self, fullname: str) -> CodeType:
        path = Path(self.path)
        if self.change is not None:
            source = changed(path, self.change.old, self.change.new)
        else:
            source = path.read_text()
        code: CodeType = atheris.patch_code(compile(source, self.path, "exec"), True)
        return code


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, modules: Collection[str], change: Change | None) -> None:
        self._modules = modules
        self._change = change

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._modules:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert found is not None
        assert found.origin is not None
        loader = _Loader(name, found.origin)
        if self._change is not None and self._change.module == name:
            loader.change = self._change
        return importlib.util.spec_from_file_location(name, found.origin, loader=loader)


def install(modules: Collection[str], change: Change | None) -> None:
    """Instrument modules from now on; none of them may have been imported before."""
    early = [name for name in modules if name in sys.modules]
    if early or (change is not None and change.module not in modules):
        raise ValueError(f"not to be instrumented: {early or change}")
    sys.meta_path.insert(0, _Finder(modules, change))
