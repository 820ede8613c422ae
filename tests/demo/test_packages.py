"""What a package needs: dpkg's status read, and followed to its end."""

import os

import pytest

from demo.packages import closure, files_of, installed_packages, parse_status
from demo.stage import NotAsPromised

STATUS = """\
installed\tshell\t\t, libc (>= 2.36), gone | awk
installed\tmawk\tawk\tlibc (>= 2.34),
installed\tlibc\tlibc-any (= 1)\t, libgcc
installed\tlibgcc\t\t, libc, base:any
installed\tbase\t\t,
config-files\tgone\t\t,
"""


@pytest.mark.parametrize(
    ("roots", "without", "found"),
    [
        pytest.param(["base"], [], ["base"], id="alone"),
        pytest.param(["shell"], [], ["shell", "libc", "mawk", "libgcc", "base"],
                     id="virtual, alternative, circle and architecture"),
        pytest.param(["shell"], ["libc", "libgcc"], ["shell", "mawk"], id="a lower layer has it"),
        pytest.param(["awk"], ["libc"], ["mawk"], id="a virtual root"),
        pytest.param([], [], [], id="nothing"),
    ],
)  # fmt: skip
def test_a_layer_has_what_its_packages_need(
    roots: list[str], without: list[str], found: list[str]
) -> None:
    assert closure(roots, parse_status(STATUS), without=without) == found


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(NotAsPromised, match="not installed: gone"):
        closure(["base", "gone"], parse_status(STATUS), without=[])


def test_this_machines_packages_lie_where_they_are_listed() -> None:
    packages = closure(["coreutils"], installed_packages(), without=[])
    assert packages[0] == "coreutils"
    assert "libc6" in packages
    files = files_of(packages)
    assert all(os.path.lexists(path) for path in files)
    assert os.path.realpath("/bin/ls") in files
    assert all(os.path.realpath(os.path.dirname(path)) == os.path.dirname(path) for path in files)
