"""What the kernel was told once it never asks again: shown with the server's process stopped."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.served import Served, is_answered
from tests.support.machine import needs_fuse

pytestmark = needs_fuse

NOT_ANSWERED_S = 1
"""Waiting longer would not change the answer: the server is stopped for as long as we wait."""


def stat_all(mount: Path) -> None:
    for name in ("sizes", "sizes/4096", "linked/0", "devices/block", "link-4095"):
        assert os.lstat(mount / name).st_nlink


def look_for_absent_names(mount: Path) -> None:
    for name in ("absent", "sizes/absent", "absent/below"):
        assert not os.path.lexists(mount / name)


def read_links(mount: Path) -> None:
    for size in (60, 512, 4095):
        assert os.readlink(mount / f"link-{size}") == "t" * size


@pytest.mark.parametrize("question", [stat_all, look_for_absent_names, read_links])
def test_a_repeated_question_never_reaches_the_server(
    question: Callable[[Path], None], served: Served
) -> None:
    question(served.mount)
    with served.frozen():
        assert is_answered(lambda: question(served.mount))


def test_names_that_a_listing_has_told_of_are_known(served: Served) -> None:
    names = os.listdir(served.mount / "xattrs")
    with served.frozen():
        assert is_answered(lambda: [os.lstat(served.mount / "xattrs" / name) for name in names])


def test_warm_bytes_are_read_without_the_server(served: Served) -> None:
    with (served.mount / "sizes/1048579").open("rb", buffering=0) as file:
        warm = file.readall()
        with served.frozen():
            assert is_answered(lambda: os.pread(file.fileno(), len(warm), 0))
            assert os.pread(file.fileno(), len(warm), 0) == warm


def test_bytes_stay_warm_when_the_file_is_closed_and_opened_again(served: Served) -> None:
    with (served.mount / "sizes/131071").open("rb", buffering=0) as file:
        warm = file.readall()
    with (served.mount / "sizes/131071").open("rb", buffering=0) as file, served.frozen():
        assert is_answered(lambda: os.pread(file.fileno(), len(warm), 0))


@pytest.mark.parametrize(
    "question",
    [
        pytest.param(lambda mount: os.lstat(mount / "names/ "), id="a-name-never-seen"),
        pytest.param(lambda mount: os.listdir(mount / "sizes"), id="a-listing"),
        pytest.param(lambda mount: os.close(os.open(mount / "sizes/1", os.O_RDONLY)), id="open"),
        pytest.param(lambda mount: os.statvfs(mount), id="statfs"),
    ],
)
def test_the_rest_waits_for_the_server_and_goes_on_with_it(
    question: Callable[[Path], object], served: Served
) -> None:
    """The freeze is real: otherwise the tests above would show nothing."""
    with served.frozen():
        assert not is_answered(lambda: question(served.mount), within_s=NOT_ANSWERED_S)
    assert is_answered(lambda: question(served.mount))
