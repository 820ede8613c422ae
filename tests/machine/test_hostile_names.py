"""Names and words that a terminal, a log, JSON or gRPC would obey are shown, never obeyed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.artifacts import push_artifact
from tests.support.both_fronts import on_both_fronts, write_layout
from tests.support.driver import Driver, cleaned_up, failure, run_driver
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.raw_tar import END, member, records
from tests.support.registry import RegistryServer
from tests.support.scripted_registry import ScriptedRegistry, run_scripted_registry

pytestmark = needs_fuse

STEERING = "\x1b]0;owned\x07\x1b[2J\r\nclipfs: all is well\t\x9b31m\u202e\u2028"
"""Sets a terminal's title, empties it, forges a line, turns the text around."""

NAMES = (
    STEERING.encode(),
    b"\x1b[31m",
    b'new\nline"}',
    b"carriage\rreturn",
    b"%s%n%x {0} {x!r}",
    b"'\"`$(id)`\\x1b\\n",
    "\u202egpj.exe".encode(),
    "\x9b2J".encode(),  # the 8-bit form of ESC [
    b"\x9b2J",
    b"\xff\xfe",
    b"\xed\xa0\x80",  # half of a surrogate pair
    b" ",
    b"-rf",
    b"...",
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, registry: RegistryServer) -> str:
    """A file, and a symlink to it, of each name."""
    layer = b"".join(
        records({b"path": name}) + member(body=name)
        + records({b"path": b"to/%d" % number, b"linkpath": b"../" + name}) + member(typeflag=b"2")
        for number, name in enumerate(NAMES)
    )  # fmt: skip
    layout = write_layout(tmp_path_factory.mktemp("names"), [layer + END])
    return images.push(layout, registry.address, "names:1")


def is_harmless(text: str) -> bool:
    """Whether a terminal only shows it; lines end where they were meant to."""
    return all(line.isprintable() for line in text.split("\n"))


def test_both_fronts_have_the_bytes_of_every_name(node: Node, image: str, tmp_path: Path) -> None:
    with on_both_fronts(node, image, tmp_path) as mounts:
        for mount in mounts.values():
            assert set(os.listdir(os.fsencode(mount))) == {*NAMES, b"to"}
            for number, name in enumerate(NAMES):
                assert (mount / "to" / str(number)).read_bytes() == name
                assert os.readlink(os.fsencode(mount) + b"/to/%d" % number) == b"../" + name


@pytest.mark.parametrize("path", ["/", "/to"])
def test_a_list_is_one_printable_line_a_name(path: str, node: Node, image: str) -> None:
    done = node.run("ls", image, path, "--root", str(node.root), *node.options)
    assert is_harmless(done.stdout + done.stderr)
    assert len(done.stdout.splitlines()) == len(NAMES) + (path == "/")


def test_json_has_every_name_and_is_one_line_of_ascii(node: Node, image: str) -> None:
    done = node.run("ls", image, "--root", str(node.root), *node.options, "--json")
    assert done.stdout.count("\n") == 1
    assert done.stdout.isascii()
    assert is_harmless(done.stdout)
    rows = json.loads(done.stdout)["entries"]
    assert {os.fsencode(row["name"]) for row in rows} == {*NAMES, b"to"}


def test_a_name_that_is_not_there_is_said_printably(node: Node, image: str) -> None:
    words = ["ls", image, STEERING + "/none", "--root", str(node.root), *node.options]
    done = node.run(*words, "--json", check=False)
    assert (done.returncode, done.stdout.isascii()) == (1, True)
    assert json.loads(done.stdout)["error"]["code"] == "image_not_found"
    assert is_harmless(done.stdout + done.stderr)
    assert done.stderr.splitlines()[-1].startswith("clipfs: ")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_log_has_one_line_a_read_whatever_is_read(
    log_format: str, node: Node, image: str, tmp_path: Path
) -> None:
    words = ["mount", image, str(tmp_path / "m"), "--root", str(node.root), *node.options]
    words += ["--front", "fuse", "--log-level", "debug", "--log-format", log_format, "--json"]
    node.mounted.append(tmp_path / "m")
    pid = json.loads(node.run(*words).stdout)["pid"]
    for name in NAMES:
        Path(os.fsdecode(os.fsencode(tmp_path / "m") + b"/" + name)).read_bytes()
    log = (node.root / f"run/log/{pid}.log").read_bytes().decode()
    assert is_harmless(log)
    lines = [line for line in log.splitlines() if "Read called" in line]
    assert len(lines) == len(NAMES)
    if log_format == "json":
        paths = {json.loads(line)["path"] for line in lines}
        assert {os.fsencode(path) for path in paths} == {b"/" + name for name in NAMES}


S = STEERING.encode()
BAD_LAYERS = {
    "link-to-nothing": records({b"path": S, b"linkpath": S + b"/x"}) + member(typeflag=b"1"),
    "leaves-the-root": records({b"path": b"../" + S}) + member(),
    "long-component": records({b"path": S * 20}) + member(),
    "time": records({b"mtime": S}) + member(),
    "owner": records({b"uid": S}) + member(),
    "size": records({b"size": S}) + member(),
    "record-length": member(b"pax", S, typeflag=b"x") + member(),
    "header-number": member(mtime=S[:12].ljust(12)),
    "base64": records({b"LIBARCHIVE.xattr.user." + S: S}) + member(),
    "dump": records({b"path": S}) + member(typeflag=b"M"),
    "whiteout-of-nothing": records({b"path": S + b"/.wh."}) + member(),
    "link-to-a-folder": records({b"path": S}) + member(typeflag=b"5")
    + records({b"path": b"l", b"linkpath": S}) + member(typeflag=b"1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("sound"), [member() + END])


@pytest.fixture(scope="module")
def scripted(layout: Path) -> Iterator[ScriptedRegistry]:
    with run_scripted_registry(layout) as found:
        yield found


@pytest.fixture(scope="module")
def driver(
    registry: RegistryServer, scripted: ScriptedRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driver]:
    home = tmp_path_factory.mktemp("driver")
    options = ["--plain-http", registry.address, "--plain-http", scripted.address]
    with cleaned_up(home), run_driver(home / "home", options, root=home / "root") as found:
        yield found


def said_harmlessly(driver: Driver, image: str) -> None:
    """A publish fails in one printable line, and the log has nothing but JSON objects."""
    code, details = failure(lambda: driver.publish("pod", image))
    assert code in ("DATA_LOSS", "FAILED_PRECONDITION", "NOT_FOUND"), details
    assert details.isprintable(), ascii(details)
    log = driver.log.read_text()
    assert is_harmless(log)
    for line in log.splitlines():
        json.loads(line)
    assert "this is a bug" not in log


@pytest.mark.parametrize("layer", BAD_LAYERS.values(), ids=BAD_LAYERS)
def test_a_layer_is_refused_in_printable_words(
    layer: bytes, driver: Driver, node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    image = images.push(write_layout(tmp_path / "image", [layer + END]), registry.address, "bad:1")
    done = node.run("index", image, "--root", str(node.root), *node.options, check=False)
    assert done.returncode == 1
    assert is_harmless(done.stdout + done.stderr)
    assert done.stderr.splitlines()[-1].startswith("clipfs: ")
    said_harmlessly(driver, image)


MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DIGEST = "sha256:" + "0" * 64
CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 2}
SOUND = {"schemaVersion": 2, "mediaType": MANIFEST, "config": CONFIG, "layers": []}
BAD_DOCUMENTS: dict[str, tuple[str, object]] = {
    "layer-type": (MANIFEST, {**SOUND, "layers": [{**CONFIG, "mediaType": STEERING}]}),
    "foreign": (MANIFEST, {**SOUND, "layers": [{**CONFIG, "mediaType": f"foreign{STEERING}"}]}),
    "manifest-type": ("application/x", {**SOUND, "mediaType": STEERING, "layers": None}),
    "digest": (MANIFEST, {**SOUND, "layers": [{**CONFIG, "digest": STEERING}]}),
    "schema": (MANIFEST, {**SOUND, "schemaVersion": STEERING}),
    "field": (MANIFEST, {**SOUND, STEERING: 1, "layers": STEERING}),
    "annotation": (MANIFEST, {**SOUND, "layers": [{**CONFIG, "annotations": {STEERING: 1}}]}),
    "platform": (INDEX, {"schemaVersion": 2, "manifests": [
        {**CONFIG, "mediaType": MANIFEST, "platform": {"os": STEERING, "architecture": STEERING}}
    ]}),
}  # fmt: skip


@pytest.mark.parametrize("document", BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS)
def test_a_manifest_is_refused_in_printable_words(
    document: tuple[str, object], driver: Driver, scripted: ScriptedRegistry
) -> None:
    media_type, body = document
    scripted.manifests["1"] = (media_type, json.dumps(body).encode())
    said_harmlessly(driver, f"{scripted.address}/app:1")


@pytest.mark.parametrize("title", [f"../{STEERING}", f"{STEERING}/.wh.x", "\ud800"], ids=ascii)
def test_a_raw_layers_title_is_refused_in_printable_words(
    title: str, driver: Driver, registry: RegistryServer
) -> None:
    annotations = {"org.opencontainers.image.title": title}
    layer = (b"x", "application/vnd.example", annotations)
    said_harmlessly(driver, push_artifact(registry.address, "titled:1", [layer]))


def test_usage_errors_show_the_callers_words_printably(node: Node) -> None:
    for words in (["ls", STEERING], ["mount", "x:1", "/m", "--front", STEERING], [STEERING]):
        done = node.run(*words, check=False)
        assert done.returncode in (1, 2)
        assert is_harmless(done.stdout + done.stderr), words
