"""Tests that wait more than they work, at the same time: each in a thread of its own.

Real claims lapse and real time-outs run off by the real clock. A module's fixture opens it with
the bodies of such tests; those that are selected begin, and each test asks how its own ended:

    endings[request.node.name].result()

A body gets a folder, and no fixture of its test: what it changes must be its own, and that is
not so of the environment, whose variables a `Node` takes. The folder stays where a body failed.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

Endings = Mapping[str, Future[None]]


@contextmanager
def at_once(
    request: pytest.FixtureRequest,
    bodies: Mapping[str, Callable[[Path], T]],
    *,
    most: int,
) -> Iterator[Mapping[str, Future[T]]]:
    """The ends of bodies, which go by their tests' names as pytest shows them.

    most  of them run at a time; they begin in their order, the longest had best be the first
    """
    folders: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    selected = {one.name for one in request.session.items if one.path == request.path}
    with ThreadPoolExecutor(most) as pool:
        try:
            yield {
                name: pool.submit(_run, body, folders.mktemp("at-once"))
                for name, body in bodies.items()
                if name in selected
            }
        finally:
            pool.shutdown(cancel_futures=True)


def cpus() -> int:
    """This process' share of them, at least one: a run's other processes have theirs."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def _run(body: Callable[[Path], T], folder: Path) -> T:
    ended = body(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return ended
