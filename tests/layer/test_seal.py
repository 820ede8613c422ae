"""Seals: what our keys signed under just this name opens, anything else is a miss."""

import hashlib
import hmac
import subprocess
import sys
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.layer.seal import MAGIC, TAG_BYTES, KeyRing

NAME = "sha256_" + "0" * 64
KEYS = KeyRing((b"new", b"old"))
SEALED = KEYS.seal(b"content", kind="toc", version=1, name=NAME)


def test_a_sealed_object_opens_under_its_own_name() -> None:
    opened = KEYS.open(SEALED, kind="toc", version=1, name=NAME)
    assert opened is not None
    assert (opened.content, opened.renew) == (b"content", False)


def test_the_seal_is_hmac_sha256_by_the_first_key() -> None:
    said = b"toc\x001\x00" + NAME.encode() + b"\0content"
    assert MAGIC + hmac.new(b"new", said, hashlib.sha256).digest() + b"content" == SEALED


def test_an_older_key_verifies_and_asks_for_a_new_seal() -> None:
    sealed = KeyRing((b"old",)).seal(b"content", kind="toc", version=1, name=NAME)
    opened = KEYS.open(sealed, kind="toc", version=1, name=NAME)
    assert opened is not None
    assert (opened.content, opened.renew) == (b"content", True)


@pytest.mark.parametrize(
    ("kind", "version", "name"),
    [
        pytest.param("origin", 1, NAME, id="other-kind"),
        pytest.param("toc", 2, NAME, id="other-version"),
        pytest.param("toc", 1, NAME[:-1] + "1", id="renamed"),
        pytest.param("toc\x001", 1, NAME, id="borders-moved"),
    ],
)
def test_a_seal_holds_for_one_kind_version_and_name(kind: str, version: int, name: str) -> None:
    assert KEYS.open(SEALED, kind=kind, version=version, name=name) is None


@pytest.mark.parametrize(
    "sealed",
    [
        pytest.param(b"", id="empty"),
        pytest.param(SEALED[:-1], id="cut-short"),
        pytest.param(SEALED + b"x", id="too-long"),
        pytest.param(SEALED[: len(MAGIC) + TAG_BYTES], id="no-content"),
        pytest.param(SEALED.replace(b"content", b"Content"), id="other-content"),
        pytest.param(b"CLIPSEAX" + SEALED[len(MAGIC) :], id="other-magic"),
        pytest.param(MAGIC + bytes(TAG_BYTES) + b"content", id="no-tag"),
        pytest.param(
            KeyRing((b"other",)).seal(b"content", kind="toc", version=1, name=NAME), id="other-key"
        ),
        pytest.param(
            KeyRing((b"",)).seal(b"content", kind="toc", version=1, name=NAME), id="empty-key"
        ),
    ],
)
def test_a_forged_seal_is_a_miss(sealed: bytes) -> None:
    assert KEYS.open(sealed, kind="toc", version=1, name=NAME) is None


def test_no_single_flipped_byte_opens() -> None:
    for at in range(len(SEALED)):
        flipped = SEALED[:at] + bytes([SEALED[at] ^ 1]) + SEALED[at + 1 :]
        assert KEYS.open(flipped, kind="toc", version=1, name=NAME) is None


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        pytest.param(b"one\n", (b"one",), id="one"),
        pytest.param(b"new\nold", (b"new", b"old"), id="the-first-signs"),
        pytest.param(b"\nnew\r\n\r\nold\n\n", (b"new", b"old"), id="blank-lines"),
        pytest.param(b" k\xff \n", (b" k\xff ",), id="a-line-s-bytes-as-they-are"),
    ],
)
def test_a_key_file_has_one_key_a_line(
    text: bytes, keys: tuple[bytes, ...], tmp_path: Path
) -> None:
    (tmp_path / "keys").write_bytes(text)
    assert KeyRing.from_file(tmp_path / "keys").keys == keys


@pytest.mark.parametrize("text", [None, b"", b"\n\n"], ids=["absent", "empty", "only-blank-lines"])
def test_a_key_file_without_a_key_is_refused_by_name(text: bytes | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "keys").write_bytes(text)
    with pytest.raises(errors.InvalidInput, match=str(tmp_path / "keys")):
        KeyRing.from_file(tmp_path / "keys")


def test_the_keys_are_not_printed() -> None:
    assert "new" not in repr(KEYS)
    assert "new" not in str(KEYS)


def test_the_node_s_own_key_is_made_once_and_for_root_alone(tmp_path: Path) -> None:
    first = KeyRing.own(tmp_path / "key")
    assert len(first.keys) == 1
    assert len(first.keys[0]) == 64
    assert KeyRing.own(tmp_path / "key").keys == first.keys
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_processes_that_make_the_own_key_at_once_agree_on_one(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from clipfs.layer.seal import KeyRing;"
        "print(flush=True); sys.stdin.read();"  # all are loaded before any goes on
        "print(KeyRing.own(Path(sys.argv[1])).keys[0].decode())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "key")]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        racer.stdout.readline()
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
    said = set()
    for racer in racers:
        with racer:
            assert racer.stdout is not None
            said.add(racer.stdout.read())
    assert said == {KeyRing.own(tmp_path / "key").keys[0] + b"\n"}
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
