"""Every option of `clip-csi node` changes what the driver does, or is refused in one line."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from clipfs.cli.mount import mount
from csi.main import node as node_command
from csi.settings import image_options, mount_options
from tests.csi.test_sockets import info, node_id, registration
from tests.support import images
from tests.support.driver import M, cleaned_up, failure, mounts_below, run_driver
from tests.support.machine import CLIP_CSI, needs_fuse
from tests.support.node import ROOM, Node, content_cache
from tests.support.registry import RegistryServer, make_certificate, run_registry
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.wait import wait_for

STORED = "Successfully stored decompressed layer in ContentCache"


def node(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CLIP_CSI, "node", *options], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ExitStack]:
    with cleaned_up(tmp_path), ExitStack() as stack:
        yield stack


@needs_fuse
def test_names_and_places_are_those_that_were_given(stack: ExitStack, tmp_path: Path) -> None:
    options = [
        "--driver-name", "other.example", "--node-id", "node-z",
        "--registration-dir", str(tmp_path / "elsewhere"),
        "--registration-endpoint", "/var/lib/kubelet/plugins/x/csi.sock",
    ]  # fmt: skip
    driver = stack.enter_context(run_driver(tmp_path / "home", options, root=tmp_path / "root"))
    wait_for(registration(tmp_path / "elsewhere", "other.example").exists)
    found = info(registration(tmp_path / "elsewhere", "other.example"))
    assert found.name == "other.example"
    assert found.endpoint == "/var/lib/kubelet/plugins/x/csi.sock"
    assert driver.call("Identity/GetPluginInfo", M["Empty"](), "Info").name == "other.example"
    assert node_id(tmp_path / "home/csi.sock") == "node-z"
    assert not (tmp_path / "home/reg").exists()


@needs_fuse
def test_without_a_registration_dir_the_driver_does_not_register(tmp_path: Path) -> None:
    command = [
        CLIP_CSI, "node", "--endpoint", f"unix://{tmp_path}/csi/csi.sock", "--node-id", "n",
        "--kubelet-root", str(tmp_path / "kubelet"), "--root", str(tmp_path / "root"),
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for((tmp_path / "csi/csi.sock").exists)
            assert node_id(tmp_path / "csi/csi.sock") == "n"
            assert sorted(os.listdir(tmp_path)) == ["csi", "root"]
        finally:
            process.terminate()
    assert process.returncode == 0


@needs_fuse
def test_the_kubelet_root_decides_where_volumes_may_be(
    stack: ExitStack, image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    options = ["--plain-http", registry.address, "--kubelet-root", f"{tmp_path}/a/../own"]
    driver = stack.enter_context(run_driver(tmp_path / "home", options, root=tmp_path / "root"))
    code, details = failure(lambda: driver.publish("pod", image))
    assert (code, f"--kubelet-root {tmp_path}/own" in details) == ("INVALID_ARGUMENT", True)
    driver.kubelet_root = tmp_path / "own"
    assert (driver.publish("pod", image) / "hello").exists()


@needs_fuse
def test_the_platform_holds_where_a_volume_does_not_say(
    stack: ExitStack, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    scripted.add_index("list", {"s390x": (scripted.digest, scripted.size)})
    options = ["--plain-http", scripted.address, "--platform", "linux/s390x"]
    driver = stack.enter_context(run_driver(tmp_path / "home", options, root=tmp_path / "root"))
    name = f"{scripted.address}/app:list"
    assert (driver.publish("silent", name) / "hello").exists()
    code, details = failure(
        lambda: driver.publish("asks", name, attributes={"platform": "linux/amd64"})
    )
    assert (code, "linux/s390x" in details) == ("NOT_FOUND", True)


@needs_fuse
def test_the_content_cache_of_the_driver_is_that_of_its_mounts(
    stack: ExitStack, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32 + "\n")
    url, token, _ = stack.enter_context(content_cache(tmp_path / "content"))
    options = [
        "--plain-http", scripted.address, "--content-cache", url,
        "--content-cache-token-file", str(token), "--index-key-file", str(key),
    ]  # fmt: skip
    name = f"{scripted.address}/app:1"
    drivers = [
        stack.enter_context(run_driver(tmp_path / node, options, root=tmp_path / f"root-{node}"))
        for node in ("a", "b")
    ]
    assert (drivers[0].publish("pod", name) / "hello").exists()
    wait_for(lambda: STORED in drivers[0].log.read_text())
    assert (drivers[1].publish("pod", name) / "hello").exists()
    assert len(scripted.layer_reads()) == 1, "node B read the content cache"


@needs_fuse
def test_the_driver_s_servers_fill_what_a_pod_has_touched(
    stack: ExitStack, image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("the cluster's key\n")
    url, token, _ = stack.enter_context(content_cache(tmp_path / "content"))
    options = [
        "--plain-http", registry.address, "--content-cache", url,
        "--content-cache-token-file", str(token), "--index-key-file", str(tmp_path / "key"),
    ]  # fmt: skip
    Node(tmp_path / "A", options).json("index", image)
    root = tmp_path / "root"
    for limits, whole in ((["--max-bytes", "1Mi"], 0), (["--max-bytes", "1Gi", *ROOM], 1)):
        words = [*options, "--background-fill", "touched", *limits]
        with run_driver(tmp_path / "home", words, root=root) as driver:
            target = driver.publish("pod", image)
            assert (target / "hello").read_text() == "world\n"
            state = "idle" if whole else "no_room"
            wait_for(lambda state=state: fill_of(root)["state"] == state)  # type: ignore[misc]
            assert len(os.listdir(root / "cache")) == fill_of(root)["layers"] == whole
            driver.unpublish("pod")


def fill_of(root: Path) -> dict[str, Any]:
    """The background fill of the one mount on root."""
    (mount,) = Node(root).json("stats")["mounts"]
    found: dict[str, Any] = mount["background_fill"]
    return found


@needs_fuse
def test_a_registry_by_a_ca_of_the_driver_s_serves_manifests_and_layers(
    stack: ExitStack, layout: Path, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path)
    secure = stack.enter_context(run_registry(tmp_path / "registry", tls=certificate))
    name = images.push(layout, secure.address, "app:1")
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes("# H\xe9l\xe8ne's CA\n".encode() + certificate.cert.read_bytes())
    driver = stack.enter_context(
        run_driver(tmp_path / "home", ["--ca-file", str(bundle)], root=tmp_path / "root")
    )
    assert (driver.publish("pod", name) / "hello").exists()


@needs_fuse
def test_without_plain_http_a_registry_is_asked_by_tls(
    stack: ExitStack, image: str, tmp_path: Path
) -> None:
    driver = stack.enter_context(run_driver(tmp_path / "home", [], root=tmp_path / "root"))
    code, details = failure(lambda: driver.publish("pod", image))
    assert (code, "--plain-http" in details) == ("UNAVAILABLE", True)
    assert mounts_below(tmp_path) == []


GOOD = ["--endpoint", "unix:///nowhere/csi.sock", "--node-id", "n", "--kubelet-root", "/k"]


@pytest.mark.parametrize("missing", ["--endpoint", "--node-id", "--kubelet-root"])
def test_a_required_option_that_is_missing_is_a_usage_error(missing: str) -> None:
    place = GOOD.index(missing)
    done = node(*GOOD[:place], *GOOD[place + 2 :])
    assert (done.returncode, f"Missing option '{missing}'" in done.stderr) == (2, True)


@pytest.mark.parametrize("option", ["--max-bytes", "--min-free"])
def test_a_limit_that_is_none_is_a_usage_error(option: str, tmp_path: Path) -> None:
    done = node(*GOOD, "--root", str(tmp_path / "root"), option, "plenty")
    assert (done.returncode, "'plenty' is no number of bytes" in done.stderr) == (2, True)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(["--endpoint", "tcp://127.0.0.1:1"], "unix:///absolute/path", id="tcp"),
        pytest.param(["--endpoint", "/csi/csi.sock"], "unix:///absolute/path", id="bare-path"),
        pytest.param(["--endpoint", "unix://csi.sock"], "unix:///absolute/path", id="relative"),
        pytest.param(["--endpoint", "unix:///" + "x" * 107], "107 bytes", id="long-path"),
        pytest.param(["--node-id", ""], "--node-id", id="no-node-id"),
        pytest.param(["--node-id", "n" * 257], "256 bytes", id="long-node-id"),
        pytest.param(["--driver-name", "../x"], "--driver-name", id="a-path-as-name"),
        pytest.param(["--driver-name", "x" * 64], "63", id="long-name"),
        pytest.param(["--platform", "linux"], "OS/ARCH", id="platform"),
        pytest.param(["--mount-context", 'a:b:c"'], "user:role:type", id="mount-context"),
        pytest.param(["--registry-config", "/none"], "/none", id="no-such-file"),
        pytest.param(["--ca-file", "/none"], "CA file /none", id="no-such-ca"),
        pytest.param(["--mirrors", "/none"], "--mirrors /none", id="no-such-mirrors"),
        pytest.param(["--ca-file", "/dev/null"], "no certificate in PEM", id="ca-without-ca"),
        pytest.param(["--metrics", "9090"], "say HOST:PORT", id="metrics"),
        pytest.param(["--metrics", "192.0.2.1:90"], "--metrics 192.0.2.1:90: ", id="not-ours"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(
    options: list[str], words: str, tmp_path: Path
) -> None:
    done = node(*GOOD, "--root", str(tmp_path), *options)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("clip-csi: ")
    assert words in last
    assert "Traceback" not in done.stderr


def test_a_docker_config_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"h.io": {"auth": "hush!"}}}')
    done = node(*GOOD, "--root", str(tmp_path), "--registry-config", str(tmp_path / "config.json"))
    assert done.returncode == 1
    assert "the auth of 'h.io' is not the base64 of user:password" in done.stderr
    assert "hush" not in done.stderr


def test_what_of_a_docker_config_is_not_used_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "sh", "credHelpers": {"h.io": "sh"}}')
    words = [*GOOD, "--root", str(tmp_path), "--registry-config", str(tmp_path / "config.json")]
    done = node(*words, "--metrics", "192.0.2.1:90")  # which ends it
    assert done.stderr.count("which is not asked") == 1
    assert done.stderr.count("leaves h.io to a program of credHelpers, which is not run") == 1


def test_what_driver_and_mount_both_take_reaches_the_mount(tmp_path: Path) -> None:
    of_each_volume = {"platform", "front", "registry_config"}
    shared = {one.name for one in mount.params} & {one.name for one in node_command.params}
    values = {
        "root": str(tmp_path / "root"),
        "content_cache": "http://127.0.0.1:1",
        "content_cache_token_file": str(tmp_path / "token"),
        "index_key_file": str(tmp_path / "key"),
        "plain_http": "registry:5000",
        "ca_file": str(tmp_path / "ca.pem"),
        "mirrors": str(tmp_path),
        "mount_context": "system_u:object_r:container_file_t:s0:c1,c2",
        "background_fill": "touched",
        "max_bytes": "20Gi",
        "min_free": "7.5%",
    }
    logs = {"log_format": "json", "log_level": "debug"}
    assert shared - of_each_volume == {*values, *logs}
    both = {**values, **logs}
    given = [word for name, value in both.items() for word in (_option(name), value)]
    required = ["--endpoint", "unix:///csi.sock", "--node-id", "n", "--kubelet-root", "/kubelet"]
    driver = node_command.make_context("node", [*required, *given])
    logs = driver.meta["clipfs.logs"]
    words = image_options(driver.params, logs) + mount_options(driver.params)
    mounted = mount.make_context("mount", ["image", "/mountpoint", *words])
    assert mounted.meta == driver.meta  # what the log options have become
    assert {name: mounted.params[name] for name in values} == {
        name: driver.params[name] for name in values
    }


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
