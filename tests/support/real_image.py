"""An image of real content: a Python stack's published wheels in five layers, and odd things.

Near 520 MB of payload in 13,000 files. A later layer hides folders of earlier ones, replaces
files and folders, and links to files of lower layers. What wheels lack is put in by hand:
owners, nanoseconds, xattrs, symlinks, odd modes and names.

Built once a machine below CLIP_TEST_CACHE: two OCI layouts with the same payloads, gzip and
zstd, and the tree as umoci unpacks it.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import images
from tests.support.images import Packed
from tests.support.layer_tar import Files, Layer

CACHE = Path(os.environ.get("CLIP_TEST_CACHE") or Path.home() / ".cache/clip-csi-tests")
CODECS = ("gzip", "zstd")
TOP = "opt/python"
WHEELS = (
    ("numpy==1.26.4", "pyarrow==17.0.0"),
    ("scipy==1.13.1", "pandas==2.2.3", "scikit-learn==1.5.2"),
    ("botocore==1.35.99", "sympy==1.13.3", "django==5.1.4", "matplotlib==3.9.4"),
)
"""What each layer installs; on top come one of links and one of changes."""

HIDDEN = {1: ("numpy/tests", "pyarrow/tests"), 2: ("pandas/tests/io", "scipy/io/tests")}
"""Folders of lower layers that a layer hides."""

FOR = ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp",
       "--platform=manylinux2014_x86_64"]  # fmt: skip # a word and its value stay together
"""The same wheels whatever Python runs the tests."""

CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000").decode()
"""security.capability, all of it ASCII: tarfile takes pax values as text."""


@dataclass(frozen=True, slots=True)
class RealImage:
    """Where the built image lies."""

    home: Path

    @property
    def reference(self) -> Path:
        """The tree that umoci made of it."""
        return self.home / "bundle" / "rootfs"

    def layout(self, codec: str) -> Path:
        return self.home / codec

    def census(self) -> Counter[str]:
        """What the layers hold, as counted from their tars when they were built."""
        return Counter(json.loads((self.home / "census.json").read_text()))


def real_image() -> RealImage:
    """The image, built now if this machine does not have it yet."""
    with alone(CACHE / "real-image.lock"):
        home = CACHE / f"real-image-{_recipe()}"
        if not home.exists():
            for stale in CACHE.glob("real-image-*"):
                shutil.rmtree(stale)
            building = Path(tempfile.mkdtemp(dir=CACHE, prefix="real-image-"))
            _build(building)
            building.rename(home)
    return RealImage(home)


def _recipe() -> str:
    """Names what was built: another recipe is another image."""
    parts = [Path(__file__), Path(__file__).with_name("layer_tar.py")]
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()[:12]


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """No other process of this machine is in a block with the same lock at path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(home: Path) -> None:
    packed: list[Packed] = []
    lower: Files = {}
    for number, names in enumerate(WHEELS):
        layer = Layer(home / f"{number}.tar", owner=(1000 + number, 100 * number), lower=lower)
        for folder in HIDDEN.get(number, ()):
            layer.hide(f"{TOP}/{folder}")
        for wheel in download(names, home / "wheels" / str(number)):
            layer.unzip(wheel, TOP)
        done, lower = layer.close()
        packed.append(done)
    packed.append(_links(home / "links.tar", lower))
    packed.append(_changes(home / "changes.tar"))
    (home / "census.json").write_text(json.dumps(_census(packed)))
    with ThreadPoolExecutor() as beside:
        zstd = beside.submit(images.write_layout, home / "zstd", packed, codec="zstd")
        images.write_layout(home / "gzip", packed, codec="gzip")
        images.unpack(home / "gzip", home / "bundle")
        zstd.result()
    shutil.rmtree(home / "wheels")
    for one in packed:
        one.tar.unlink()


def download(names: Iterable[str], folder: Path) -> list[Path]:
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *FOR,
         "--dest", str(folder), *names],
        check=True,
    )  # fmt: skip # a word and its value stay together
    return sorted(folder.iterdir())


def _links(path: Path, lower: Files) -> Packed:
    """Every library in one folder and every header in another, without their bytes."""
    layer = Layer(path, owner=(0, 0), lower=lower)
    for info in lower.values():
        flat = info.name.removeprefix(f"{TOP}/").replace("/", ".")
        if ".so" in info.name:
            layer.link(f"usr/lib/{flat}", info)
        elif info.name.endswith(".h"):
            layer.put(_symlink(layer.member(f"usr/include/{flat}"), f"/{info.name}"))
    return layer.close()[0]


def _changes(path: Path) -> Packed:
    """What a wheel never holds, and what hides and replaces what wheels brought."""
    layer = Layer(path, owner=(0, 0), lower={})
    member, put = layer.member, layer.put
    layer.hide(f"{TOP}/sympy/plotting")
    put(member(f"{TOP}/numpy/core/.wh..wh..opq"))
    put(member(f"{TOP}/numpy/core/__init__.py"))
    put(member(f"{TOP}/scipy/cluster"))
    put(member(f"{TOP}/numpy/version.py/now/a/folder"))
    put(member(f"{TOP}/matplotlib/__init__.py", mode=0o4711))
    layer.hide(f"{TOP}/pyarrow/libarrow.so.1700")  # its link lives on
    put(member("odd/sticky", kind=tarfile.DIRTYPE, mode=0o1777))
    put(member("odd/group", kind=tarfile.DIRTYPE, mode=0o2750, pax={"uid": "3000000000"}))
    for mode in (0o000, 0o4755, 0o2755, 0o7777, 0o200):
        put(member(f"odd/mode-{mode:04o}", mode=mode))
    for name in ("not-utf-8-\udcff", "long-" + "n" * 250, "line\nfeed", " space ", "ünïcode"):
        put(member(f"odd/{name}"))
    for name, target in SYMLINKS.items():
        put(_symlink(member(f"odd/{name}"), target))
    for name, xattrs in XATTRS.items():
        put(member(f"odd/{name}", pax={f"SCHILY.xattr.{key}": xattrs[key] for key in xattrs}))
    put(member("odd/fifo", kind=tarfile.FIFOTYPE, mode=0o620))
    put(member("odd/before-1970", pax={"mtime": "-1.5"}))
    return layer.close()[0]


def _symlink(info: tarfile.TarInfo, target: str) -> tarfile.TarInfo:
    info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, target
    return info


SYMLINKS = {
    "relative": "../opt/python/numpy/core/__init__.py",
    "absolute": "/opt/python",
    "dangling": "nowhere",
    "long": "/".join(["a-long-way"] * 80),
}
XATTRS = {
    "noted": {"user.note": "kept\0as it is", "user.other": "ünïcode"},
    "large": {"user.large": "x" * 2000},
    "capable": {"security.capability": CAP_NET_RAW},
}


def _census(layers: Sequence[Packed]) -> Counter[str]:
    """Read the tars again, so that what the builder meant to write is not just believed."""
    found = Counter(layers=len(layers))
    for one in layers:
        with tarfile.open(one.tar, errors="surrogateescape") as tar:
            members = {member.name: member for member in tar}
        found["payload_bytes"] += one.tar.stat().st_size
        for member in members.values():
            whiteout = "/.wh." in member.name
            found["whiteouts"] += whiteout
            found["files"] += member.isreg() and not whiteout
            found["symlinks"] += member.issym()
            found["links_across_layers"] += member.islnk() and member.linkname not in members
            found["with_xattrs"] += any("xattr" in key for key in member.pax_headers)
    return found
