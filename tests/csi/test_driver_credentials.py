"""The driver with a credential provider: volumes, their servers, and a password that changes."""

import base64
import os
from pathlib import Path

from tests.csi.conftest import Start
from tests.support.content import run_content_server
from tests.support.driver import failure, nothing_left, servers
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.plugins import Plugins
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.volumes import docker_config_of

pytestmark = needs_fuse

OLD, NEW = "old-hush-word", "new-hush-word"


def test_a_provider_opens_a_volume_and_goes_on_to_after_driver_and_password_changed(
    start: Start, scripted: ScriptedRegistry, layout_data: bytes, tmp_path: Path
) -> None:
    """The volume's first byte is read from the registry, by the server that the first driver
    left, with what the second one's plugin says."""
    registry, secret = scripted.address, tmp_path / "password"
    secret.write_text(OLD)
    scripted.wants = f"user:{OLD}"
    plugins = Plugins(tmp_path)
    say = f'answer["auth"] = auth(**{{{registry!r}: open({str(secret)!r}).read()}})'
    plugins.add("helper", say, match=[registry])
    provider = ["--image-credential-provider-config", str(plugins.file),
                "--image-credential-provider-bin-dir", str(plugins.folder)]  # fmt: skip
    (tmp_path / "key").write_text("the cluster's key\n")
    with run_content_server(tmp_path / "cache") as cache:
        shared = ["--content-cache", cache.url,
                  "--content-cache-token-file", str(tmp_path / "cache/token"),
                  "--index-key-file", str(tmp_path / "key")]  # fmt: skip # as typed by hand
        index_elsewhere(tmp_path, registry, shared)
        for page in (tmp_path / "cache/objects/objects").glob("sha256_*/*"):
            page.unlink()
        first = start(*shared, *provider)
        target = first.publish("pod", f"{registry}/own:1")
        first.process.terminate()
        first.process.wait(20)
        second = start(*shared, *provider)
        secret.write_text(NEW)
        scripted.wants = f"user:{NEW}"
        before = len(plugins.calls("helper"))
        assert (target / "data").read_bytes() == layout_data
        assert len(plugins.calls("helper")) > before
        (line,) = [one for one in second.lines() if one["event"] == "credentials are lent"]
        assert (line["volume"], line["pod"]) == ("csi-pod", "default/pod")
        assert line["image"] == f"{registry}/own:1"
        (server,) = servers(tmp_path / "root")
        shown = [Path(f"/proc/{server}/{name}").read_bytes() for name in ("cmdline", "environ")]
        second.unpublish("pod")
        nothing_left(second, tmp_path / "root", "pod")
        files = [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
        shown += [path.read_bytes() for path in [*files, second.log]]
        for word in (OLD, NEW, base64.b64encode(f"user:{NEW}".encode()).decode()):
            assert not [one for one in shown if word.encode() in one]


def index_elsewhere(tmp_path: Path, registry: str, shared: list[str]) -> None:
    config = tmp_path / "node-a.json"
    config.write_bytes(docker_config_of({registry: OLD}))
    options = [*shared, "--plain-http", registry, "--registry-config", str(config)]
    Node(tmp_path / "A", options).json("index", f"{registry}/own:1")
    os.unlink(config)


def test_without_any_the_error_tells_the_way_out(start: Start, scripted: ScriptedRegistry) -> None:
    scripted.wants = f"user:{OLD}"
    code, said = failure(lambda: start().publish("pod", f"{scripted.address}/own:1"))
    assert code == "UNAUTHENTICATED"
    assert said.endswith(
        ": no credentials: give the volume a nodePublishSecretRef, or let the driver read the "
        "pod's imagePullSecrets by adding its namespace default to podPullSecrets.namespaces"
    )


def test_while_the_api_server_is_away_a_public_image_is_mounted_and_a_private_one_waits(
    start: Start, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    """The node's own credentials are not shown in place of those that the pod may have."""
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    node = tmp_path / "node.json"
    node.write_bytes(docker_config_of({scripted.address: OLD}))
    options = ["--kubeconfig", str(tmp_path / "kubeconfig"), "--registry-config", str(node)]
    driver = start(*options, "--pod-pull-secrets", "*")
    scripted.wants = f"user:{OLD}"
    code, said = failure(lambda: driver.publish("pod", f"{scripted.address}/own:1"))
    assert code == "UNAVAILABLE"
    assert "without credentials" in said
    assert "imagePullSecrets: the API server does not answer" in said
    assert said.endswith("; the kubelet tries again by itself")
    scripted.wants = None
    assert (driver.publish("pod", f"{scripted.address}/own:1") / "hello").read_text() == "world\n"


KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: none}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""
"""Of an API server that does not answer."""
