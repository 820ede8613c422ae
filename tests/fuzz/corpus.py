"""The corpora that are kept: one zip a target, whose members are named by their content."""

import hashlib
import zipfile
from pathlib import Path

HOME = Path(__file__).with_name("corpus")


def path(target: str) -> Path:
    return HOME / f"{target}.zip"


def read(target: str) -> list[bytes]:
    kept = path(target)
    if not kept.exists():
        return []
    with zipfile.ZipFile(kept) as archive:
        return [archive.read(name) for name in archive.namelist()]


def write(target: str, inputs: list[bytes]) -> None:
    """The same bytes for the same inputs."""
    HOME.mkdir(exist_ok=True)
    with zipfile.ZipFile(path(target), "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for data in sorted(set(inputs), key=lambda one: (len(one), one)):
            archive.writestr(zipfile.ZipInfo(_name(data)), data, zipfile.ZIP_DEFLATED)


def unpack(inputs: list[bytes], folder: Path) -> Path:
    """Write inputs to folder, for libFuzzer."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / _name(data)).write_bytes(data)
    return folder


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
