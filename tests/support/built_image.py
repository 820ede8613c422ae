"""A Debian base with two layers on it, built by buildah on the host's own overlay.

What Debian holds is real content; the second layer adds what it lacks, the third hides and
replaces, so that the whiteouts and opaque folders are those of a builder in use.
"""

import gzip
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.support import images
from tests.support.images import Packed
from tests.support.real_image import CACHE, alone
from tests.support.sparse_files import FILES, HUGE, make_sparse_files

PACKAGES = "base-files,bash,coreutils,login,mount,passwd,perl-base,util-linux"
CAPABILITY = struct.pack("<IIIII", 0x0200_0001, 1 << 13, 0, 0, 0)  # cap_net_raw, as `setcap` has it
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, number)  # acl(5): tag, rwx, id
    for tag, permissions, number in [
        (0x01, 6, 0xFFFF_FFFF), (0x02, 5, 1234), (0x04, 4, 0xFFFF_FFFF),
        (0x10, 5, 0xFFFF_FFFF), (0x20, 4, 0xFFFF_FFFF),
    ]
)  # fmt: skip


def debian_base() -> Path:
    """A tar of a few packages' files, unpacked by mmdebstrap; made once a machine."""
    tar = CACHE / "debian-bookworm-merged-usr.tar"
    with alone(tar.with_suffix(".lock")):
        if not tar.exists():
            making = tar.with_name(f"new-{tar.name}")
            subprocess.run(
                ["mmdebstrap", "--variant=extract", f"--include={PACKAGES}", "--quiet",
                 "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "bookworm", str(making)],
                check=True,
            )  # fmt: skip
            making.rename(tar)
    return tar


def built_layers(home: Path) -> list[Packed]:
    """The image's layers, as buildah packed them."""
    with _storage(home) as buildah:
        image = "scratch"
        for number, change in enumerate((_unpack_base, _add, _take_away)):
            container = buildah("from", image)
            change(Path(buildah("mount", container)))
            buildah("umount", container)
            image = f"localhost/step-{number}"
            buildah("commit", "--quiet", "--rm", container, image)
        buildah("push", "--quiet", image, f"oci:{home}/built:x")
    return list(_unzipped(home / "built"))


@contextmanager
def _storage(home: Path) -> Iterator[Callable[..., str]]:
    """buildah with a storage of its own; gives what it prints."""
    options = ["--storage-driver", "overlay", "--root", f"{home}/store", "--runroot", f"{home}/run"]

    def buildah(*words: str) -> str:
        command = ["buildah", *options, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        yield buildah
    finally:
        buildah("rm", "--all")
        subprocess.run(["umount", f"{home}/store/overlay"], capture_output=True, check=False)
        shutil.rmtree(home / "store")


def _unpack_base(top: Path) -> None:
    """All but translations, a third of the bytes: as in Debian's slim images."""
    words = ["--exclude=./dev/*", "--exclude=./usr/share/locale/*"]
    subprocess.run(["tar", "-C", top, "-xpf", debian_base(), *words], check=True)


def _add(top: Path) -> None:
    odd = top / "odd"
    odd.mkdir()
    shutil.copy(top / "usr/bin/true", odd / "raised")
    (odd / "raised").chmod(0o4755)
    shutil.copy(top / "usr/bin/false", odd / "capable")
    os.setxattr(odd / "capable", "security.capability", CAPABILITY)
    (odd / "listed").write_text("an ACL")
    os.setxattr(odd / "listed", "system.posix_acl_access", ACL)
    os.setxattr(odd / "listed", "user.note", b"kept\0as it is")
    os.mkfifo(odd / "fifo", 0o620)
    os.mknod(odd / "device", 0o020666, os.makedev(1, 3))
    os.link(odd / "raised", odd / "raised-too")
    os.link(odd / "raised", top / "usr/lib/raised-here")
    os.symlink("../usr/lib", odd / "by-way")
    (odd / "by-way/through").write_text("below usr/lib")
    (odd / ("n" * 255)).write_text("long")
    Path(os.fsdecode(os.fsencode(odd) + b"/\xff\xfe latin \xe9")).write_text("not UTF-8")
    (odd / "unique").write_bytes(os.urandom(4096))  # so that no cache knows the layer's blob
    os.utime(odd / "unique", ns=(0, 1_234_567_890_123_456_789))


def _take_away(top: Path) -> None:
    shutil.rmtree(top / "usr/share/doc/bash")
    (top / "usr/bin/yes").unlink()
    shutil.rmtree(top / "usr/share/doc/coreutils")  # made again: an opaque folder
    (top / "usr/share/doc/coreutils").mkdir()
    (top / "usr/share/doc/coreutils/new").write_text("alone")
    shutil.rmtree(top / "usr/share/doc/passwd")
    (top / "usr/share/doc/passwd").write_text("a file now")
    (top / "usr/bin/tac").unlink()
    (top / "usr/bin/tac").mkdir()
    (top / "odd/raised-too").unlink()
    (top / "etc").chmod(0o711)


def _unzipped(layout: Path) -> Iterator[Packed]:
    blobs = layout / "blobs/sha256"
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    for layer in json.loads((blobs / entry["digest"][7:]).read_text())["layers"]:
        tar = layout / f"{layer['digest'][7:19]}.tar"
        tar.write_bytes(gzip.decompress((blobs / layer["digest"][7:]).read_bytes()))
        yield Packed(tar)


def push_as(layout: Path, reference: str, *options: str) -> str:
    """Copy the layout's image as skopeo's options change it; its reference."""
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", *options,
         f"oci:{layout}:x", f"docker://{reference}"],
        check=True,
    )  # fmt: skip
    return reference


def write_layouts(home: Path, layers: list[Packed]) -> dict[str, Path]:
    """Name -> an OCI layout: the layers in a codec; "sparse" has layers of sparse files on top."""
    sparse = [*layers, *_sparse_layers(home)]
    with ThreadPoolExecutor() as beside:
        writing = [beside.submit(images.write_layout, home / "sparse", sparse)]
        for codec in ("gzip", "zstd", "plain"):
            writing.append(beside.submit(images.write_layout, home / codec, layers, codec=codec))
        for one in writing:
            one.result()
    return {name: home / name for name in ("gzip", "zstd", "plain", "sparse")}


def _sparse_layers(home: Path) -> Iterator[Packed]:
    """One of each of PAX' formats. Go's reader, and so containerd, refuses GNU's own."""
    for version in ("0.0", "0.1", "1.0"):
        folder = home / f"sparse-{version}"
        folder.mkdir()
        make_sparse_files(folder, FILES.keys() - HUGE)
        tar = home / f"{folder.name}.tar"
        command = ["tar", "--create", "--sparse", "--format=pax", f"--sparse-version={version}"]
        subprocess.run([*command, "-f", tar, "-C", home, folder.name], check=True)
        yield Packed(tar)
