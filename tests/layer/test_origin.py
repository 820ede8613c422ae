"""Origin records: one opens as what it is, and as nothing else."""

from dataclasses import replace
from hashlib import sha256

import pytest

from clipfs.image.digest import Digest
from clipfs.image.model import Layer
from clipfs.layer.origin import (
    KIND,
    MAX_RECORD_BYTES,
    VERSION,
    open_record,
    record_name,
    seal_record,
)
from clipfs.layer.seal import KeyRing

HOST = "registry.example:5000"
LAYER = Layer(
    digest=Digest(f"sha256:{1:064x}"),
    size=1000,
    media_type="application/vnd.oci.image.layer.v1.tar",
    diff_id=Digest(f"sha256:{2:064x}"),
)
OTHER = replace(LAYER, digest=Digest(f"sha256:{3:064x}"))
RAW = replace(LAYER, raw_path="model")
KEYS = KeyRing((b"new", b"old"))
OLD = KeyRing((b"old",))
NAME = record_name(LAYER.cache_key, HOST)
RIGHT = seal_record(LAYER, HOST, KEYS)


def sealed(
    *,
    content: bytes = HOST.encode(),
    kind: str = KIND,
    version: int = VERSION,
    name: str = LAYER.cache_key,
) -> bytes:
    return KEYS.seal(content, kind=kind, version=version, name=name)


def test_a_record_opens_as_that_of_its_layer_and_host() -> None:
    assert open_record(RIGHT, LAYER, KEYS, name=NAME) == (HOST, False)


def test_one_of_an_older_key_is_to_be_sealed_anew() -> None:
    assert open_record(seal_record(LAYER, HOST, OLD), LAYER, KEYS, name=NAME) == (HOST, True)


def test_its_name_is_the_contracts() -> None:
    digest = sha256(b"registry.example:5000").hexdigest()
    assert f"sha256_{1:064x}.v1.origin.{digest}" == NAME
    assert record_name(RAW.cache_key, HOST) == f"sha256_{1:064x}.raw.v1.origin.{digest}"


def test_a_host_is_the_same_however_its_letters_are_written() -> None:
    assert record_name(LAYER.cache_key, "Registry.EXAMPLE:5000") == NAME
    assert seal_record(LAYER, "Registry.EXAMPLE:5000", KEYS) == RIGHT


def test_the_longest_host_fits() -> None:
    assert len(seal_record(LAYER, "h" * 255, KEYS)) <= MAX_RECORD_BYTES


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"garbage" * 20, id="garbage"),
        pytest.param(RIGHT[:-1], id="cut-short"),
        pytest.param(RIGHT + b"x", id="too-long"),
        pytest.param(RIGHT.replace(b"registry", b"registri"), id="host-changed"),
        pytest.param(seal_record(LAYER, HOST, KeyRing((b"not ours",))), id="another-clusters"),
        pytest.param(sealed(version=VERSION + 1), id="another-version"),
        pytest.param(sealed(kind="toc"), id="another-kind"),
        pytest.param(seal_record(OTHER, HOST, KEYS), id="another-layers"),
        pytest.param(seal_record(RAW, HOST, KEYS), id="the-blob-taken-raw"),
        pytest.param(seal_record(LAYER, "evil.example", KEYS), id="another-hosts"),
        pytest.param(seal_record(LAYER, "registry.example", KEYS), id="another-ports"),
        pytest.param(sealed(content=b"\xff\xfe"), id="no-text"),
        pytest.param(sealed(content=b""), id="no-host"),
    ],
)
def test_anything_else_proves_nothing(wrong: bytes) -> None:
    assert open_record(wrong, LAYER, KEYS, name=NAME) is None
