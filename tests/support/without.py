"""Runs a test against the product with one line of it changed: a check taken out.

The change is made to the source on its way into Python, in every process that the test
starts, by a `sitecustomize.py` on PYTHONPATH. No file of the product is touched, and the
product knows no switch.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import CodeType, ModuleType
from typing import NoReturn

import pytest

REPOSITORY = Path(__file__).parents[2]

_MOST_S = 250
_END_S = 30

_STARTER = multiprocessing.get_context("forkserver")
_STARTER.set_forkserver_preload(["pytest", "pytest_trio.plugin"])
"""Forks processes that have imported what takes pytest most of its start."""


class ChangedLoader(importlib.machinery.SourceFileLoader):
    """Loads a module with old replaced by new; no byte code is read or written."""

    def __init__(self, name: str, path: str, old: str, new: str) -> None:
        super().__init__(name, path)
        self._old, self._new = old, new

    def get_code(self, fullname: str) -> CodeType:
        return compile(changed(Path(self.path), self._old, self._new), self.path, "exec")


class Changer(importlib.abc.MetaPathFinder):
    """Finds one module for a ChangedLoader, wherever Python would have found it."""

    def __init__(self, module: str, old: str, new: str) -> None:
        self._module, self._old, self._new = module, old, new

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._module:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        if found is None or found.origin is None:
            return None
        loader = ChangedLoader(name, found.origin, self._old, self._new)
        return importlib.util.spec_from_file_location(name, found.origin, loader=loader)


def install(module: str, old: str, new: str) -> None:
    """Called by the sitecustomize.py that `run_without` writes."""
    sys.meta_path.insert(0, Changer(module, old, new))


def changed(path: Path, old: str, new: str) -> str:
    """The source at path with old replaced; ValueError unless it holds old just once."""
    source = path.read_text()
    if source.count(old) != 1:
        raise ValueError(f"{path} holds {old!r} {source.count(old)} times, not once")
    return source.replace(old, new)


def changed_environment(home: Path, *, module: str, old: str, new: str) -> dict[str, str]:
    """The environment of processes that run with old replaced by new in module."""
    home.mkdir(parents=True, exist_ok=True)
    lines = f"from tests.support.without import install\ninstall({module!r}, {old!r}, {new!r})\n"
    (home / "sitecustomize.py").write_text(lines)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(home), str(REPOSITORY)])}


def source_of(module: str) -> Path:
    return REPOSITORY.joinpath(*module.split(".")).with_suffix(".py")


def run_without(home: Path, test: str, *, module: str, old: str, new: str) -> str:
    """What pytest says of one test, with old replaced by new in module."""
    environment = changed_environment(home, module=module, old=old, new=new)
    process = _STARTER.Process(target=_test, args=(test, module, old, new, environment, home))
    process.start()
    try:
        process.join(_MOST_S)
        if process.exitcode is None:
            raise TimeoutError(f"{test} did not end within {_MOST_S} s")
    finally:
        _end(process)
    return (home / "said").read_text()


def _end(process: BaseProcess) -> None:
    """Have a test that runs yet take away what it has mounted and started, or kill it."""
    if process.exitcode is None and process.pid is not None:
        os.kill(process.pid, signal.SIGINT)
        process.join(_END_S)
        process.kill()


def _test(
    test: str, module: str, old: str, new: str, environment: dict[str, str], home: Path
) -> NoReturn:
    """The body of a process of its own, in which nothing of the product is imported yet."""
    assert module.partition(".")[0] not in sys.modules
    with (home / "said").open("wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.environ.update(environment)
    os.chdir(REPOSITORY)
    install(module, old, new)
    words = [
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]
    sys.exit(pytest.main([*words, test]))
