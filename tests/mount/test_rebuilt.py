"""A layer's sparse files, rebuilt for the kernel: whole or not there, and never another's."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from clipfs import errors
from clipfs.cache.litter import sweep
from clipfs.image.digest import Digest
from clipfs.image.model import Layer
from clipfs.layer.index import PackedEntries, make_index
from clipfs.layer.layout import Layout
from clipfs.mount.rebuilt import first_wrong_byte, is_rebuilt, rebuilt
from clipfs.tiers.tier import IndexedLayer
from clipfs.tree.sparse import SparseLayout
from tests.support.damage import DAMAGES, Damage
from tests.support.sparse_layers import SparseLayer, sparse_file_of
from tests.support.tier_stack import made_layout

MIB = 1 << 20


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return made_layout(tmp_path / "root")


@pytest.fixture(scope="module")
def made() -> SparseLayer:
    layer = SparseLayer()
    layer.add(b"a", 5 * MIB, [(0, 5000), (2 * MIB, MIB + 77), (5 * MIB - 1, 1)])
    layer.add(b"hole", 5000, [])
    layer.add(b"b", 100 * MIB, [(60 * MIB + 1, 1000)])
    return layer


@pytest.fixture
def indexed(layout: Layout, made: SparseLayer) -> IndexedLayer:
    """The layer, its payload complete in cache/."""
    digest = Digest(f"sha256:{1:064x}")
    index = make_index(
        payload_bytes=len(made.payload), diff_id=digest, chunk_digests=b"",
        entries=PackedEntries(made.entries), sparse=made.maps,
    )  # fmt: skip
    layer = IndexedLayer(
        layer=Layer(digest=digest, size=1, media_type="", diff_id=digest), index=index
    )
    layout.payload(layer.cache_key).write_bytes(made.payload)
    return layer


@pytest.fixture
def sparse(made: SparseLayer) -> SparseLayout:
    assert made.layout is not None
    return made.layout


def test_it_holds_each_run_in_its_place_and_takes_the_room_of_its_data(
    layout: Layout, indexed: IndexedLayer, sparse: SparseLayout, made: SparseLayer
) -> None:
    path = rebuilt(layout, indexed, sparse)
    assert path == layout.index / f"{indexed.cache_key}.v1.sparse"
    assert path.read_bytes() == sparse_file_of(made)
    assert path.stat().st_blocks * 512 < sparse.data_bytes + 64 * 1024 < path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o400
    assert is_rebuilt(path, sparse)
    assert os.listdir(layout.index) == [path.name]


def test_one_that_is_there_is_taken_as_it_is(
    layout: Layout, indexed: IndexedLayer, sparse: SparseLayout
) -> None:
    first = rebuilt(layout, indexed, sparse).stat()
    layout.payload(indexed.cache_key).unlink()
    assert os.path.samestat(rebuilt(layout, indexed, sparse).stat(), first)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: os.truncate(path, path.stat().st_size - 1), id="truncated"),
        pytest.param(lambda path: os.truncate(path, path.stat().st_size + 512), id="longer"),
        pytest.param(lambda path: os.truncate(path, 0), id="emptied"),
        pytest.param(lambda path: path.write_bytes(bytes(path.stat().st_size)), id="zeros"),
    ],
)
def test_another_file_in_its_place_is_made_anew(
    spoil: Callable[[Path], object],
    layout: Layout,
    indexed: IndexedLayer,
    sparse: SparseLayout,
    made: SparseLayer,
) -> None:
    path = rebuilt(layout, indexed, sparse)
    path.chmod(0o600)
    spoil(path)
    assert not is_rebuilt(path, sparse)
    assert rebuilt(layout, indexed, sparse).read_bytes() == sparse_file_of(made)


def test_that_of_another_layout_is_made_anew_though_it_is_as_long(
    layout: Layout, indexed: IndexedLayer
) -> None:
    one, other = SparseLayer(), SparseLayer()
    one.add(b"x", 9000, [(0, 5)])
    other.add(b"x", 9000, [(1, 5)])
    assert one.layout is not None
    assert other.layout is not None
    path = rebuilt(layout, indexed, one.layout)
    assert path.stat().st_size == other.layout.size_bytes
    assert not is_rebuilt(path, other.layout)


@pytest.mark.parametrize("call", ["ftruncate", "pwrite", "copy_file_range"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_what_the_disk_refuses_is_told_with_the_files_name(
    call: str,
    number: int,
    layout: Layout,
    indexed: IndexedLayer,
    sparse: SparseLayout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refused)
    said = f"{layout.sparse_file(indexed.cache_key)}.*: {os.strerror(number)}"
    kind = errors.DiskFull if number == errno.ENOSPC else errors.NodeFault
    with pytest.raises(kind, match=said):
        rebuilt(layout, indexed, sparse)


@pytest.mark.parametrize("damage", [*DAMAGES.values(), None], ids=[*DAMAGES, "EIO"])
def test_what_is_no_file_or_cannot_be_read_is_rebuilt(
    damage: Damage | None,
    layout: Layout,
    indexed: IndexedLayer,
    sparse: SparseLayout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = rebuilt(layout, indexed, sparse)
    content = path.read_bytes()
    if damage:
        damage(path)
    else:

        def refused(*_: object) -> bytes:
            raise OSError(errno.EIO, "planted")

        monkeypatch.setattr(os, "pread", refused)
    assert rebuilt(layout, indexed, sparse).read_bytes() == content


def test_a_disk_that_takes_less_than_it_is_given_is_given_the_rest(
    layout: Layout, indexed: IndexedLayer, made: SparseLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:10], at))
    assert made.layout is not None
    assert rebuilt(layout, indexed, made.layout).read_bytes() == sparse_file_of(made)


def test_a_payload_that_is_cut_while_it_is_read_is_named(
    layout: Layout, indexed: IndexedLayer, sparse: SparseLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    with pytest.raises(
        errors.NodeFault, match=r"cache/sha256_\w+ is not as long as .*cache verify"
    ):
        rebuilt(layout, indexed, sparse)
    assert os.listdir(layout.index) == []


def test_a_death_while_it_is_written_leaves_no_file_of_its_name(
    layout: Layout, indexed: IndexedLayer, sparse: SparseLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "copy_file_range", killed)
    with pytest.raises(KeyboardInterrupt):
        rebuilt(layout, indexed, sparse)
    assert os.listdir(layout.index) == []


def test_what_a_killed_process_leaves_is_not_taken_and_is_swept(
    layout: Layout, indexed: IndexedLayer, sparse: SparseLayout, made: SparseLayer
) -> None:
    (layout.root / "job").write_bytes(msgspec.msgpack.encode((indexed.layer, indexed.index)))
    code = (
        "import os, signal, sys; from pathlib import Path; import msgspec\n"
        "from clipfs.image.model import Layer; from clipfs.layer.index import LayerIndex\n"
        "from clipfs.layer.layout import Layout; from clipfs.mount.rebuilt import rebuilt\n"
        "from clipfs.tiers.tier import IndexedLayer; from clipfs.tree.sparse import layout_of\n"
        "root = Path(sys.argv[1]); data = (root / 'job').read_bytes()\n"
        "layer, index = msgspec.msgpack.decode(data, type=tuple[Layer, LayerIndex])\n"
        "os.copy_file_range = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "rebuilt(Layout(root), IndexedLayer(layer=layer, index=index), layout_of(index.sparse))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, layout.root], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = layout.index.iterdir()
    assert left.name.endswith(".tmp")
    assert not is_rebuilt(layout.sparse_file(indexed.cache_key), sparse)
    assert rebuilt(layout, indexed, sparse).read_bytes() == sparse_file_of(made)
    os.utime(left, (0, 0))
    sweep(layout)
    assert os.listdir(layout.index) == [f"{indexed.cache_key}.v1.sparse"]


@pytest.mark.parametrize("change", [-512, 512])
def test_a_payload_that_is_not_whole_is_not_believed(
    change: int, layout: Layout, indexed: IndexedLayer, sparse: SparseLayout
) -> None:
    payload = layout.payload(indexed.cache_key)
    os.truncate(payload, payload.stat().st_size + change)
    with pytest.raises(
        errors.NodeFault, match=r"cache/sha256_\w+ is not as long as .*cache verify"
    ):
        rebuilt(layout, indexed, sparse)
    payload.unlink()
    with pytest.raises(errors.NodeFault, match="No such file"):
        rebuilt(layout, indexed, sparse)
    assert os.listdir(layout.index) == []


def test_one_wrong_byte_is_found_in_data_and_in_holes(
    layout: Layout, indexed: IndexedLayer, sparse: SparseLayout
) -> None:
    path = rebuilt(layout, indexed, sparse)
    path.chmod(0o600)
    runs = list(sparse.runs())
    places = [0, 20, 511, runs[0].offset, runs[0].offset + runs[0].length]
    places += [runs[1].offset + MIB + 5, runs[2].offset, runs[-1].offset - 70_000]
    places += [sparse.size_bytes - 1]
    with path.open("r+b") as file, layout.payload(indexed.cache_key).open("rb") as payload:
        assert first_wrong_byte(file.fileno(), payload.fileno(), sparse) is None
        for place in places:
            right = os.pread(file.fileno(), 1, place)
            os.pwrite(file.fileno(), bytes([right[0] ^ 1]), place)
            wrong = first_wrong_byte(file.fileno(), payload.fileno(), sparse)
            assert wrong is not None
            assert wrong <= place
            os.pwrite(file.fileno(), right, place)
        assert first_wrong_byte(file.fileno(), payload.fileno(), sparse) is None
        os.truncate(path, sparse.size_bytes - 512)
        assert first_wrong_byte(file.fileno(), payload.fileno(), sparse) is not None
