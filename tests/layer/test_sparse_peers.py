"""Sparse files as GNU tar and bsdtar archive them; the files themselves are the reference."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from clipfs.layer.index import EntryKind
from tests.layer.tars import parsed
from tests.support.machine import needs_fuse
from tests.support.sparse_files import FILES, HUGE, make_sparse_files
from tests.support.sparse_layers import content_of

pytestmark = needs_fuse

GNU = ["tar", "--create", "--sparse"]
BSD = ["bsdtar", "-c", "--format=pax"]
ARCHIVERS = [
    pytest.param([*GNU, "--format=gnu"], id="gnu-tar-gnu"),
    pytest.param([*GNU, "--format=oldgnu"], id="gnu-tar-oldgnu"),
    pytest.param([*GNU, "--format=pax", "--sparse-version=0.0"], id="gnu-tar-0.0"),
    pytest.param([*GNU, "--format=pax", "--sparse-version=0.1"], id="gnu-tar-0.1"),
    pytest.param([*GNU, "--format=pax", "--sparse-version=1.0"], id="gnu-tar-1.0"),
    pytest.param([*GNU, "--format=pax", "--hole-detection=raw"], id="gnu-tar-1.0-raw"),
    pytest.param(BSD, id="bsdtar-1.0"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sparse")
    make_sparse_files(home)
    os.link(home / "hole-in-the-middle", home / "linked")
    return home


@pytest.mark.parametrize("command", ARCHIVERS)
def test_a_sparse_file_is_what_was_archived(
    command: list[str], folder: Path, tmp_path: Path
) -> None:
    names = sorted(os.listdir(folder))
    if "--hole-detection=raw" in command:
        names = [name for name in names if name not in HUGE]  # it reads all of it
    subprocess.run([*command, "-f", tmp_path / "tar", "-C", folder, *names], check=True)
    payload = (tmp_path / "tar").read_bytes()
    parser = parsed(payload, 10_000)
    assert sorted(entry.path.decode() for entry in parser.entries) == names
    sparse = 0
    for entry in parser.entries:
        path = folder / entry.path.decode()
        if entry.kind == EntryKind.HARDLINK:
            assert os.path.samefile(path, folder / entry.target.decode())
            continue
        assert entry.size == path.stat().st_size
        sparse += entry.kind == EntryKind.SPARSE
        if entry.size < 1 << 30:
            assert content_of(entry, parser.sparse, payload) == path.read_bytes()
            continue
        (found,) = [one for one in parser.sparse if one.payload_offset == entry.payload_offset]
        with path.open("rb") as file:
            data = b"".join(os.pread(file.fileno(), run.length, run.offset)
                            for run in found.extents())  # fmt: skip
        assert data == payload[entry.payload_offset :][: len(data)]
        assert data.count(0) < len(data)
    assert sparse == sum(one.is_sparse for name, one in FILES.items() if name in names)


@pytest.mark.parametrize("seed", range(3))
def test_any_file_with_holes_is_what_was_archived(seed: int, tmp_path: Path) -> None:
    fill = random.Random(seed)
    with (tmp_path / "s").open("wb") as file:
        for _ in range(fill.randrange(30, 60)):
            file.seek(fill.randrange(3 << 20))
            file.write(fill.randbytes(fill.choice([1, 4096, 4097, 20_000])))
        file.truncate(fill.choice([3 << 20, 2 << 20, (3 << 20) + 1]))
    for position, parameter in enumerate(ARCHIVERS):
        archive = tmp_path / str(position)
        subprocess.run([*parameter.values[0], "-f", archive, "-C", tmp_path, "s"], check=True)  # type: ignore[misc] # the command
        parser = parsed(archive.read_bytes(), 999)
        (entry,) = parser.entries
        assert (
            content_of(entry, parser.sparse, archive.read_bytes()) == (tmp_path / "s").read_bytes()
        )
