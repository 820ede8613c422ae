"""`--mount-context`: what both fronts tell the kernel, and what a node without SELinux says."""

from pathlib import Path

import pytest

from clipfs import errors
from clipfs.mount import device, syscalls
from clipfs.mount.front import erofs

CONTEXT = "system_u:object_r:container_file_t:s0:c1,c2"


def test_fuse_is_told_the_context_in_quotes_since_it_may_hold_commas() -> None:
    plain = device.mount_options(7, None)
    assert device.mount_options(7, CONTEXT) == f'{plain},context="{CONTEXT}"'
    assert "context" not in plain


def test_erofs_is_told_the_context_as_a_setting_of_its_own() -> None:
    plain = erofs.settings_of("/index", ["/1", "/2"], None)
    assert plain == [("source", "/index"), ("device", "/1"), ("device", "/2")]
    assert erofs.settings_of("/index", ["/1", "/2"], CONTEXT) == [*plain, ("context", CONTEXT)]


@pytest.mark.parametrize(
    "context", ["", "a", "a:b", "a:b:c d", 'a:b:c"', "a:b:c,ro", "a:b:c\n", "a:b:c:", "\u00e9:b:c"]
)
def test_what_is_no_context_is_refused(context: str) -> None:
    with pytest.raises(errors.InvalidInput, match="--mount-context"):
        syscalls.check_context(context)


@pytest.mark.parametrize("context", ["a:b:c", "a_u:b_r:c_t:s0", CONTEXT])
def test_a_kernel_without_selinux_is_the_nodes_fault(context: str, tmp_path: Path) -> None:
    known = tmp_path / "filesystems"
    known.write_text("nodev\tproc\n\text4\n")
    with pytest.raises(errors.NodeFault, match="this kernel has no SELinux"):
        syscalls.check_context(context, filesystems=known)
    known.write_text("nodev\tproc\nnodev\tselinuxfs\n")
    syscalls.check_context(context, filesystems=known)


def test_no_context_is_no_question() -> None:
    syscalls.check_context(None)
