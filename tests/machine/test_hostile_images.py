"""Hostile images: what each tries is bounded, refused in one line, or harmless on both fronts.

One digest declared raw and as a tar is in `test_artifacts.py`. CLIP_TEST_ENTRIES says how many
entries the very large folder has: 1,000,000 takes a minute and a half.
"""

import errno
import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import zstandard

from tests.support import images
from tests.support.artifacts import Blob, push_artifact
from tests.support.both_fronts import FRONTS, on_both_fronts, write_layout
from tests.support.machine import CLIPFS, needs_fuse
from tests.support.node import Node
from tests.support.raw_tar import END, many_name, member, one_folder, records
from tests.support.registry import RegistryServer
from tests.support.said import Say

pytestmark = needs_fuse

ENTRIES = int(os.environ.get("CLIP_TEST_ENTRIES", "100000"))
WORKERS_BYTES = 160 << 20
"""What a worker takes for an image of nothing, and its pieces of payload."""
ENTRY_BYTES = 800
"""What an entry takes at most, while an image is merged."""
SERVER_BYTES = 128 << 20
"""What a server takes, and then the index, which it maps: 90 bytes an entry."""


MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
"""A small process between: the peak of a child begins with that of who has started it."""


def pushed(home: Path, registry: RegistryServer, *layers: bytes) -> str:
    """An image of these tars."""
    return images.push(write_layout(home / "image", layers), registry.address, f"{home.name}:1")


def refusal(node: Node, image: str) -> dict[str, str]:
    """Why the image is not indexed: a code and a message."""
    done = node.run("index", image, "--root", str(node.root), *node.options, "--json", check=False)
    assert done.returncode == 1
    error: dict[str, str] = json.loads(done.stdout)["error"]
    return error


def test_a_folder_of_very_many_entries_costs_bounded_memory(
    node: Node, registry: RegistryServer, tmp_path: Path, say: Say
) -> None:
    layout = write_layout(tmp_path / "image", [one_folder(ENTRIES)])
    image = images.push(layout, registry.address, "many-entries:1")
    command = [CLIPFS, "index", image, "--root", str(node.root), *node.options]
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], check=True, text=True,
                          stdout=subprocess.PIPE)  # fmt: skip
    cpu_s, peak_kib = map(float, done.stdout.split())
    peak_bytes = int(peak_kib) * 1024  # the largest of the command and its workers
    assert peak_bytes < WORKERS_BYTES + ENTRY_BYTES * ENTRIES

    known = [many_name(number) for number in (0, ENTRIES // 2, ENTRIES - 1)]
    absent = [b"many/" + name for name in (b"a", b"entry-00000000", b"z", b"n" * 255)]
    with on_both_fronts(node, image, tmp_path) as mounts:
        for mount in mounts.values():
            top = os.fsencode(mount)
            with os.scandir(mount / "many") as entries:
                names = {entry.name for entry in entries}
            assert len(names) == ENTRIES
            assert all(os.path.isfile(top + b"/" + name) for name in known)
            assert not any(os.path.lexists(top + b"/" + name) for name in absent)
        (pid,) = [row["pid"] for row in node.json("stats")["mounts"] if row["front"] == "fuse"]
        server_bytes = peak_of(pid)
        assert server_bytes < SERVER_BYTES + 100 * ENTRIES
    say(
        f"{ENTRIES} entries in one folder: indexed in {cpu_s:.1f} s of CPU; "
        f"peak {peak_bytes >> 20} MiB in a worker, {server_bytes >> 20} in a server"
    )


def peak_of(pid: int) -> int:
    """Bytes that a process has had in memory at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_folders_may_be_as_deep_as_a_path_and_no_deeper(
    node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    deep = b"d/" * 1023 + b"end"
    image = pushed(tmp_path, registry, records({b"path": deep}) + member(body=b"deep") + END)
    with on_both_fronts(node, image, tmp_path) as mounts:
        for mount in mounts.values():
            assert Path(mount, deep.decode()).read_text() == "deep"
    deeper = records({b"path": b"d/" * 1024 + b"end"}) + member() + END
    error = refusal(
        Node(tmp_path / "other", node.options), pushed(tmp_path / "2", registry, deeper)
    )
    assert (error["code"], "1024 folders deep" in error["message"]) == ("corrupt_image", True)


def test_xattrs_are_shown_up_to_what_the_kernel_lists_and_no_more(
    node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    value = bytes(range(256)) * 234
    many = {b"SCHILY.xattr.user.%03d%s" % (n, b"n" * 200): b"v" for n in range(300)}
    layer = records({b"SCHILY.xattr.user.large": value}) + member(b"large")
    image = pushed(tmp_path, registry, layer + records(many) + member(b"many") + END)
    with on_both_fronts(node, image, tmp_path) as mounts:
        for mount in mounts.values():
            assert os.getxattr(mount / "large", "user.large") == value
            assert len(os.listxattr(mount / "many")) == len(many)
    over = records({b"SCHILY.xattr.user.large": bytes(65536)}) + member(b"large") + END
    error = refusal(Node(tmp_path / "other", node.options), pushed(tmp_path / "2", registry, over))
    assert error["code"] == "corrupt_image"
    assert "over 65536 bytes of xattrs" in error["message"]


def test_a_loop_of_symlinks_ends_and_no_member_goes_through_it(
    node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    loop = member(b"a", typeflag=b"2", link=b"b") + member(b"b", typeflag=b"2", link=b"a")
    loop += member(b"self", typeflag=b"2", link=b"self/self")
    image = pushed(tmp_path, registry, loop + END)
    with on_both_fronts(node, image, tmp_path) as mounts:
        for mount in mounts.values():
            for name in ("a", "self", "self/x"):
                with pytest.raises(OSError, match=rf"\[Errno {errno.ELOOP}\]"):
                    (mount / name).read_bytes()
    through = pushed(tmp_path / "2", registry, loop + member(b"a/below") + END)
    error = refusal(Node(tmp_path / "other", node.options), through)
    assert (error["code"], "too many symlinks" in error["message"]) == ("corrupt_image", True)


def test_a_bomb_is_refused_with_the_figure_long_before_the_disk_is_full(
    node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    size, zeros = 1 << 34, bytes(1 << 20)
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    pieces = chain([member(b"zeros", size=base8(size))], (zeros for _ in range(size >> 24)))
    blob = b"".join([*map(packer.compress, pieces), packer.flush()])
    layers: list[Blob] = [(blob, "application/vnd.oci.image.layer.v1.tar+zstd", {})]
    error = refusal(node, push_artifact(registry.address, "bomb:1", layers))
    assert error["code"] == "corrupt_image"
    assert "over 67108864 bytes, the limit for a blob of this size" in error["message"]
    assert list((node.root / "partial").iterdir()) == []


def base8(number: int) -> bytes:
    """A size that needs all twelve digits of its field."""
    return b"%012o" % number


def test_links_lead_nowhere_on_the_host(
    node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    """A parent that is a symlink, absolute or upward, is a place inside of the image."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "secret").write_text("of the host")
    inside = os.fsencode(host).lstrip(b"/")
    layer = b"".join([
        member(b"absolute", typeflag=b"2", link=os.fsencode(host)),
        records({b"linkpath": b"../" * 40 + inside}), member(b"upward", typeflag=b"2"),
        member(b"absolute/planted", b"1"), member(b"upward/too", b"2"),
        member(b"absolute/secret", b"of the image"),
        member(b"linked", typeflag=b"1", link=b"absolute/secret"),
    ])  # fmt: skip
    image = pushed(tmp_path, registry, layer + END)
    with on_both_fronts(node, image, tmp_path / "mounts") as mounts:
        for mount in mounts.values():
            found = mount / inside.decode()
            assert sorted(os.listdir(found)) == ["planted", "secret", "too"]
            assert (mount / "linked").read_text() == "of the image"
            assert os.readlink(mount / "absolute") == str(host)
    assert os.listdir(host) == ["secret"]
    listed = node.json("ls", image, "/absolute")
    assert {row["name"] for row in listed["entries"]} == {"planted", "secret", "too"}


@pytest.mark.parametrize(
    ("link", "words"),
    [
        pytest.param(b"../../../../../../../{}", "leaves the root", id="upward"),
        pytest.param(b"/{}", "is not in the image", id="absolute"),
        pytest.param(b"out/{}", "is not in the image", id="through-a-symlink"),
    ],
)
def test_a_hard_link_to_a_file_of_the_host_is_refused_unread(
    link: bytes, words: str, node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    out = member(b"out", typeflag=b"2", link=b"/")
    target = link.replace(b"{}", os.fsencode(secret).lstrip(b"/"))
    layer = out + records({b"linkpath": target}) + member(b"l", typeflag=b"1") + END
    error = refusal(node, pushed(tmp_path, registry, layer))
    assert (error["code"], words in error["message"]) == ("corrupt_image", True)
    assert os.stat(secret).st_nlink == 1


PROGRAMS = {"id": ["./id", "-u"], "grep": ["./grep", "CapEff", "/proc/self/status"]}
NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")
"""security.capability: cap_net_raw, permitted and effective."""


def test_setuid_and_file_capabilities_raise_nobody(
    node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    """The same programs do raise an unprivileged user where they lie on the host's own disk."""
    layer, host = member(b"./", typeflag=b"5", mode=0o755), tmp_path / "host"
    host.mkdir(mode=0o755)
    for name in PROGRAMS:
        body = Path("/usr/bin", name).resolve().read_bytes()
        (host / name).write_bytes(body)
        if name == "id":
            layer += member(b"id", body, mode=0o4755)
            (host / name).chmod(0o4755)
        else:
            attributes = {b"SCHILY.xattr.security.capability": NET_RAW}
            layer += records(attributes) + member(b"grep", body, mode=0o755)
            (host / name).chmod(0o755)
            os.setxattr(host / name, "security.capability", NET_RAW)
    assert as_nobody(host) == ("0", "CapEff:\t0000000000002000")
    with on_both_fronts(node, pushed(tmp_path, registry, layer + END), tmp_path) as mounts:
        for mount in mounts.values():
            assert os.stat(mount / "id").st_mode & 0o7777 == 0o4755
            assert as_nobody(mount) == ("1234", "CapEff:\t0000000000000000")


def as_nobody(folder: Path) -> tuple[str, ...]:
    """What the programs in folder say of who runs them."""
    return tuple(
        subprocess.run(
            words, cwd=folder, user=1234, group=1234, extra_groups=[], check=True,
            capture_output=True, text=True,
        ).stdout.strip()
        for words in PROGRAMS.values()
    )  # fmt: skip


def test_device_nodes_open_nothing_even_for_root(
    node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    """The same node opens on the host's own disk."""
    layer = member(b"null", typeflag=b"3", mode=0o666, devmajor=1, devminor=3)
    layer += member(b"disk", typeflag=b"4", mode=0o666, devmajor=8, devminor=0)
    os.mknod(tmp_path / "null", 0o020666, os.makedev(1, 3))
    assert (tmp_path / "null").read_bytes() == b""
    with on_both_fronts(node, pushed(tmp_path, registry, layer + END), tmp_path) as mounts:
        assert set(mounts) == set(FRONTS)
        for mount in mounts.values():
            assert os.stat(mount / "null").st_rdev == os.makedev(1, 3)
            for name in ("null", "disk"):
                with pytest.raises(PermissionError):
                    os.open(mount / name, os.O_RDONLY)
