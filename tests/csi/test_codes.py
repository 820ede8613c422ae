"""Which gRPC code each failure is: the table is complete, and each row has a cause out there.

The rows that are not here: a bad attribute or reference, an unknown tag, `Never`, other
attributes for a target and an unpublish of nothing are in `test_driver.py`; a full disk is in
`tests/machine/test_full_disk.py`; what credentials do, in `test_credentials.py`.
"""

import bz2
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from clipfs import errors
from csi.errors import GRPC_CODE
from tests.support.driver import Driver, M, cleaned_up, failure, nothing_left, run_driver, servers
from tests.support.machine import needs_fuse
from tests.support.raw_tar import END, member, records
from tests.support.scripted_registry import ScriptedRegistry, run_scripted_registry

MAY_STILL_RUN = {"CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED"}
"""Codes after which the kubelet does not take a publish for undone."""


def test_every_error_has_a_code() -> None:
    assert set(GRPC_CODE) == set(errors.ClipError.__subclasses__())


def test_a_code_invites_a_retry_just_where_the_error_says_that_one_may_help() -> None:
    inviting = {kind for kind, code in GRPC_CODE.items() if code.name in MAY_STILL_RUN}
    assert inviting == {kind for kind in GRPC_CODE if kind.transient}


@dataclass(frozen=True, slots=True)
class Node:
    driver: Driver
    root: Path
    registry: ScriptedRegistry


@pytest.fixture(scope="module")
def node(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One driver and one misbehaving registry for the whole table."""
    home = tmp_path_factory.mktemp("codes")
    with run_scripted_registry(layout) as registry, cleaned_up(home):
        options = ["--plain-http", registry.address, "--plain-http", "127.0.0.1:1"]
        with run_driver(home / "home", options, root=home / "root") as driver:
            yield Node(driver, home / "root", registry)


@pytest.fixture(autouse=True)
def well_behaved(request: pytest.FixtureRequest) -> None:
    if "node" in request.fixturenames:
        registry: ScriptedRegistry = request.getfixturevalue("node").registry
        registry.refuse, registry.spoil, registry.manifests = {}, False, {}


def serve(media_type: str, document: object) -> Callable[[ScriptedRegistry], None]:
    """The registry has this document as its tag `1`."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()

    def change(registry: ScriptedRegistry) -> None:
        registry.manifests["1"] = (media_type, body)

    return change


def refuse(kind: str, status: int) -> Callable[[ScriptedRegistry], None]:
    return lambda registry: registry.refuse.update({kind: status})


def spoil(registry: ScriptedRegistry) -> None:
    registry.spoil = True


OCI = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG: dict[str, Any] = {
    "mediaType": "application/vnd.oci.image.config.v1+json",
    "digest": "sha256:" + "0" * 64,
    "size": 2,
}


def image_of(layer_type: str) -> dict[str, object]:
    layer = {"mediaType": layer_type, "digest": "sha256:" + "1" * 64, "size": 9}
    return {"schemaVersion": 2, "config": CONFIG, "layers": [layer]}


def layer_of(payload: bytes, *, diff_id: str | None = None) -> Callable[[ScriptedRegistry], None]:
    """Tag `1` is an image of one plain layer; diff_id is what its config says of that."""

    def change(registry: ScriptedRegistry) -> None:
        stated = diff_id or "sha256:" + hashlib.sha256(payload).hexdigest()
        config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [stated]}}).encode()
        document = {
            "schemaVersion": 2,
            "config": registry.add_blob(config, CONFIG["mediaType"]),
            "layers": [registry.add_blob(payload, "application/vnd.oci.image.layer.v1.tar")],
        }
        body = json.dumps(document).encode()
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        registry.manifests["1"] = registry.manifests[digest] = (OCI, body)

    return change


SOUND_TAR = member() + END
TOO_DEEP = records({b"path": b"d/" * 1024 + b"f"}) + member() + END
SCHEMA_1 = {"schemaVersion": 1, "name": "app", "tag": "1", "fsLayers": [], "history": []}
FOREIGN = image_of("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
UNKNOWN_LAYER = image_of("application/x-squashfs")
ARM_ONLY = {
    "schemaVersion": 2,
    "manifests": [{**CONFIG, "mediaType": OCI, "platform": {"os": "linux", "architecture": "arm"}}],
}


@needs_fuse
@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        pytest.param(refuse("manifests", 401), "UNAUTHENTICATED", "credentials", id="401"),
        pytest.param(refuse("blobs", 401), "UNAUTHENTICATED", "credentials", id="401-for-a-blob"),
        pytest.param(refuse("manifests", 403), "PERMISSION_DENIED", "refuses", id="403"),
        pytest.param(refuse("manifests", 404), "NOT_FOUND", "no such image", id="404"),
        pytest.param(serve(OCI_INDEX, ARM_ONLY), "NOT_FOUND", "linux/arm", id="no-platform"),
        pytest.param(refuse("manifests", 429), "UNAVAILABLE", "429", id="429"),
        pytest.param(refuse("manifests", 500), "UNAVAILABLE", "500", id="500"),
        pytest.param(refuse("blobs", 503), "UNAVAILABLE", "503", id="503-for-a-blob"),
        pytest.param(spoil, "DATA_LOSS", "sha256:", id="wrong-layer-bytes"),
        pytest.param(serve(OCI, b"{"), "DATA_LOSS", "malformed", id="malformed-manifest"),
        pytest.param(serve(OCI, {"schemaVersion": 2}), "DATA_LOSS", "no config",
                     id="half-manifest"),
        pytest.param(serve(OCI_INDEX, {"schemaVersion": 2, "manifests": [1]}), "DATA_LOSS",
                     "malformed", id="malformed-index"),
        pytest.param(layer_of(SOUND_TAR, diff_id="sha256:" + "0" * 64), "DATA_LOSS",
                     "the config's diff_id", id="wrong-diff-id"),
        pytest.param(layer_of(b"no tar".ljust(512)), "DATA_LOSS", "tar:", id="malformed-tar"),
        pytest.param(layer_of(member(b"l", typeflag=b"1", link=b"never") + END), "DATA_LOSS",
                     "which is not in the image", id="layers-that-make-no-tree"),
        pytest.param(layer_of(TOO_DEEP), "DATA_LOSS", "more than 1024 folders deep",
                     id="over-a-limit"),
        pytest.param(serve("application/vnd.docker.distribution.manifest.v1+json", SCHEMA_1),
                     "FAILED_PRECONDITION", "schema 1", id="schema-1"),
        pytest.param(layer_of(bz2.compress(SOUND_TAR)), "FAILED_PRECONDITION",
                     "compressed by bzip2", id="bzip2"),
        pytest.param(serve(OCI, FOREIGN), "FAILED_PRECONDITION", "foreign", id="foreign-layer"),
        pytest.param(serve(OCI, UNKNOWN_LAYER), "FAILED_PRECONDITION", "squashfs", id="layer-type"),
        pytest.param(serve("application/vnd.example", {"schemaVersion": 2}),
                     "FAILED_PRECONDITION", "not an image's", id="manifest-type"),
    ],
)  # fmt: skip
def test_what_a_registry_does_wrong_is_told_by_its_code_and_leaves_nothing(
    change: Callable[[ScriptedRegistry], None], code: str, words: str, node: Node
) -> None:
    change(node.registry)
    before = len(node.registry.requests)
    name = f"{node.registry.address}/app:1"
    found, details = failure(lambda: node.driver.publish("pod", name))
    assert (found, words in details) == (code, True), details
    assert name in details
    assert len(node.registry.requests) > before
    nothing_left(node.driver, node.root, "pod")


@needs_fuse
def test_a_manifest_that_is_not_the_digest_that_was_asked_for_is_data_loss(node: Node) -> None:
    wrong = "sha256:" + "a" * 64
    node.registry.manifests[wrong] = (OCI, b"{}")
    name = f"{node.registry.address}/app@{wrong}"
    assert failure(lambda: node.driver.publish("pod", name))[0] == "DATA_LOSS"


@needs_fuse
def test_a_registry_that_is_not_there_is_unavailable(node: Node) -> None:
    code, details = failure(lambda: node.driver.publish("pod", "127.0.0.1:1/app:1"))
    assert (code, "127.0.0.1:1" in details) == ("UNAVAILABLE", True)
    nothing_left(node.driver, node.root, "pod")


@needs_fuse
def test_the_registry_that_failed_serves_the_next_publish(node: Node) -> None:
    name = f"{node.registry.address}/app:1"
    spoil(node.registry)
    failure(lambda: node.driver.publish("pod", name))
    node.registry.spoil = False
    assert (node.driver.publish("pod", name) / "hello").read_text() == "world\n"
    node.driver.unpublish("pod")


@needs_fuse
def test_every_missing_field_is_an_invalid_argument_of_its_method(node: Node) -> None:
    target = str(node.driver.target("pod"))
    asked = [
        ("Node/NodePublishVolume", M["Publish"]()),
        ("Node/NodePublishVolume", M["Publish"](volume_id="v")),
        ("Node/NodePublishVolume", M["Publish"](volume_id="v", target_path=target)),
        ("Node/NodeUnpublishVolume", M["Unpublish"](target_path=target)),
        ("Node/NodeUnpublishVolume", M["Unpublish"](volume_id="v")),
        ("Node/NodeGetVolumeStats", M["Stats"](volume_path=target)),
        ("Node/NodeGetVolumeStats", M["Stats"](volume_id="v")),
    ]
    for method, request in asked:
        code, details = failure(lambda m=method, r=request: node.driver.call(m, r))  # type: ignore[misc] # mypy cannot type defaults
        assert (code, "missing" in details) == ("INVALID_ARGUMENT", True), (method, details)


@needs_fuse
def test_a_volume_as_a_block_device_is_an_invalid_argument(node: Node) -> None:
    request = node.driver.publish_request("pod", f"{node.registry.address}/app:1")
    request.volume_capability.ClearField("mount")
    request.volume_capability.block.SetInParent()
    code, details = failure(lambda: node.driver.call("Node/NodePublishVolume", request))
    assert (code, "block" in details) == ("INVALID_ARGUMENT", True), details


@needs_fuse
def test_paths_that_no_file_can_have_are_invalid_arguments(node: Node) -> None:
    for path in ("/a\0b", "/" + "x" * 256, "/x" * 3000):
        stats = M["Stats"](volume_id="v", volume_path=path)
        unpublish = M["Unpublish"](volume_id="v", target_path=path)
        for method, request in (
            ("Node/NodeGetVolumeStats", stats),
            ("Node/NodeUnpublishVolume", unpublish),
        ):
            code, _ = failure(lambda m=method, r=request: node.driver.call(m, r))  # type: ignore[misc] # mypy cannot type defaults
            assert code == "INVALID_ARGUMENT", (method, path)


@needs_fuse
def test_a_message_that_is_longer_than_grpc_carries_is_cut_not_lost(node: Node) -> None:
    far = "/elsewhere" + "/\N{PACKAGE}" * 800  # twelve bytes each on the wire
    request = M["Unpublish"](volume_id="v", target_path=far)
    code, details = failure(lambda: node.driver.call("Node/NodeUnpublishVolume", request))
    assert (code, details.startswith("target path /elsewhere")) == ("INVALID_ARGUMENT", True)


@needs_fuse
def test_bytes_that_are_no_message_do_not_harm_the_driver(node: Node) -> None:
    call = node.driver.channel.unary_unary("/csi.v1.Node/NodePublishVolume", None, None)
    for data in (b"\xff" * 100, bytes.fromhex("0a02fffe"), b"\0"):
        with pytest.raises(grpc.RpcError):
            call(data, timeout=30)
    assert node.driver.call("Node/NodeGetInfo", M["Empty"](), "NodeInfo").node_id == "node-a"


@needs_fuse
def test_a_mount_that_somebody_else_made_at_the_target_stays_and_is_a_conflict(node: Node) -> None:
    target = node.driver.target("taken")
    target.mkdir(parents=True)
    os.system(f"mount -t tmpfs theirs {target}")
    name = f"{node.registry.address}/app:1"
    assert failure(lambda: node.driver.publish("taken", name))[0] == "ALREADY_EXISTS"
    node.driver.unpublish("taken")
    assert os.path.ismount(target)
    assert servers(node.root) == []
