"""An image that one process tells to another: the same one, or a refusal that names the file."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.image.model import Image, Layer
from clipfs.image.reference import parse_reference
from clipfs.image.resolved import Resolved, load

DIGEST = Digest("sha256:" + "a" * 64)
TAR = Layer(digest=DIGEST, size=1, media_type="tar", diff_id=Digest("sha256:" + "b" * 64))
RAW = Layer(digest=DIGEST, size=1 << 40, media_type="x", diff_id=None, raw_path="a/b")
IMAGE = Image(
    reference=parse_reference(f"h.io/app:1@{DIGEST}"), digest=DIGEST, layers=(TAR, RAW, TAR)
)


def told(path: Path, image: Image) -> Path:
    path.write_bytes(msgspec.json.encode(Resolved.of(image)))
    return path


def test_an_image_is_told_whole(tmp_path: Path) -> None:
    assert load(told(tmp_path / "told", IMAGE), IMAGE.reference) == IMAGE


@pytest.mark.parametrize("name", ["h.io/app:1", f"h.io/app@sha256:{'c' * 64}"])
def test_only_the_image_that_was_asked_for_by_its_digest_is_taken(
    name: str, tmp_path: Path
) -> None:
    path = told(tmp_path / "told", IMAGE)
    with pytest.raises(errors.InvalidInput, match=f"--resolved {path}: it is not the image {name}"):
        load(path, parse_reference(name))


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"digest": 1, "layers": []}', None])
def test_what_tells_no_image_is_refused_by_its_name(data: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "told"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(errors.InvalidInput, match=f"--resolved {path}: "):
        load(path, IMAGE.reference)


def test_the_reference_is_the_callers(tmp_path: Path) -> None:
    path = told(tmp_path / "told", replace(IMAGE, reference=parse_reference("other.io/x:2")))
    assert load(path, IMAGE.reference) == IMAGE
