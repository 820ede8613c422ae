"""What a root holds, judged from outside: payloads against their images, and what was left.

Nothing of the product is imported: digests are of the image's own manifest and config.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from tests.support.driver import mounts_below
from tests.support.processes import command_line


def diff_ids(layout: Path) -> dict[str, str]:
    """Of an OCI layout's image: cache key -> what the payload must have as its digest."""

    def document(digest: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(
            (layout / "blobs" / digest.replace(":", "/")).read_text()
        )
        return found

    index = json.loads((layout / "index.json").read_text())
    manifest: dict[str, object] = document(index["manifests"][0]["digest"])
    config: dict[str, object] = document(manifest["config"]["digest"])  # type: ignore[index]
    payloads = config["rootfs"]["diff_ids"]  # type: ignore[index]
    keys = [layer["digest"].replace(":", "_") for layer in manifest["layers"]]  # type: ignore[attr-defined]
    return dict(zip(keys, payloads, strict=True))


def unverified(root: Path, expected: dict[str, str]) -> list[str]:
    """What is under `cache/` and is not, whole, the payload that its name says."""
    wrong = []
    for path in sorted((root / "cache").iterdir()):
        try:
            with path.open("rb") as file:
                digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:  # collected meanwhile
            continue
        if expected.get(path.name) != digest:
            wrong.append(f"{path.name}: {path.stat().st_size} bytes, {digest}")
    return wrong


def litter(root: Path, *, driver: int) -> list[str]:
    """What nothing that lives accounts for, once no volume is published.

    Meant to stay are payloads, indexes, logs, the marks of layers that the content cache lacks,
    and partial payloads of layers that are not whole: the next mount goes on with them.
    """
    left = [f"mount {place}" for place in mounts_below(root)]
    left += [f"process {pid}" for pid in processes_of(root) if pid != driver]
    left += [str(path.relative_to(root)) for path in _half_written(root)]
    for pattern in ("partial/*.first", "run/*.fill", "run/*.use", "run/*.proof",
                    "run/images/*", "run/mounts/*", "run/volumes/*", "run/made/*",
                    "run/left/*",
                    "run/counters/*.*"):  # fmt: skip
        left += [str(path.relative_to(root)) for path in root.glob(pattern)]
    partial = {
        path.name: path.name.removesuffix(".chunks") for path in (root / "partial").iterdir()
    }
    left += [f"partial/{name}" for name, key in partial.items() if (root / "cache" / key).exists()]
    return sorted(left)


def _half_written(root: Path) -> Iterator[Path]:
    """Not in mounts, which may be on their way out."""
    for top, names, files in os.walk(root):
        names[:] = [name for name in names if Path(top, name) != root / "run/images"]
        yield from (Path(top, name) for name in files if name.endswith(".tmp"))


def processes_of(root: Path) -> list[int]:
    """Processes that name root in their command line, or have a file below it open."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_of(path, root)]


def _is_of(process: Path, root: Path) -> bool:
    if process.name == str(os.getpid()):
        return False
    if os.fsencode(f"{root}\0") in command_line(process):
        return True
    try:
        links = [os.readlink(link) for link in (process / "fd").iterdir()]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return any(link.startswith(f"{root}/") for link in links)
