"""A lazy mount that outlives its credentials: real registries, a real server, the driver's end.

Every layer's bytes are at the registry alone, so that the first read in each is a download.
"""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support import images
from tests.support.lending_driver import run_lending_driver
from tests.support.machine import needs_fuse
from tests.support.node import Node, alive, content_cache
from tests.support.registry import RegistryServer, make_certificate, run_registry
from tests.support.tokens import LEEWAY_S, SERVICE, TokenServer, run_token_server
from tests.support.volumes import docker_config_of
from tests.support.wait import wait_for

pytestmark = needs_fuse

LAYERS = 7
FILE_BYTES = 300_000
OLD, NEW = "old-hush-word", "new-hush-word"


class Place:
    """A node with an image whose layers' bytes it will have to download, one by one."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.home = home
        self.stack = stack
        self.files = {f"file-{n}": os.urandom(FILE_BYTES) for n in range(LAYERS)}

    def push(self) -> None:
        """Into the folder of the registry that is to come, which wants no credentials yet."""
        layers = []
        for name, data in self.files.items():
            folder = self.home / f"tree-{name}"
            folder.mkdir()
            (folder / name).write_bytes(data)
            layers.append(images.layer(folder, self.home / f"{name}.tar"))
        images.write_layout(self.home / "oci", layers)
        with run_registry(self.home / "registry") as server:
            images.push(self.home / "oci", server.address, "private/app:1")

    def index(self, registry: str, *others: str) -> None:
        """The image is indexed by another node; the content cache keeps the indexes alone.

        others  beside the registry, which are spoken to in plain HTTP
        """
        image = f"{registry}/private/app:1"
        url, token_file, _ = self.stack.enter_context(content_cache(self.home / "cc"))
        (self.home / "key").write_text("the cluster's key\n")
        self.registry = registry
        (self.home / "config.json").write_bytes(docker_config_of({registry: OLD}))
        options = [
            "--content-cache", url, "--content-cache-token-file", str(token_file),
            "--index-key-file", str(self.home / "key"),
            "--registry-config", str(self.home / "config.json"),
            *(word for host in (registry, *others) for word in ("--plain-http", host)),
        ]  # fmt: skip  # as typed by hand
        digest = Node(self.home / "A", options).json("index", image)["digest"]
        self.image = f"{registry}/private/app@{digest}"
        for page in (self.home / "cc/objects/objects").glob("sha256_*/*"):
            page.unlink()
        self.node = Node(self.home / "B", options)
        self.stack.callback(self.node.close)

    def mount(self, *options: str) -> Path:
        where = self.home / "mount"
        self.pid = self.node.mount(self.image, where, "--front", "fuse", *options)["pid"]
        return where

    def refreshed_mount(self) -> Path:
        """By a driver that has one volume of the image, whose pod's secret says OLD."""
        path = self.home / "credentials.sock"
        self.driver = self.stack.enter_context(run_lending_driver(path, self.image))
        self.driver.rotate(OLD)
        volume = self.driver.socket.volume
        return self.mount("--credentials-socket", str(path), "--credentials-of", volume)

    def downloaded(self) -> int:
        reads: int = self.node.json("stats")["registry"]["bytes"]
        return reads


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        made = Place(tmp_path, stack)
        made.push()
        yield made


def set_password(file: Path, password: str) -> None:
    line = subprocess.run(
        ["htpasswd", "-Bbn", "user", password], capture_output=True, text=True, check=True
    ).stdout
    file.write_text(line)


@pytest.fixture
def basic(place: Place) -> RegistryServer:
    """The registry wants OLD, as long as the file says so."""
    set_password(place.home / "htpasswd", OLD)
    return place.stack.enter_context(
        run_registry(place.home / "registry", htpasswd=place.home / "htpasswd")
    )


def refusals(server: RegistryServer) -> int:
    return sum(status == 401 and "/blobs/" in path for _, path, status in server.requests())


def test_a_rotated_password_does_not_fail_a_read(place: Place, basic: RegistryServer) -> None:
    place.index(basic.address)
    where = place.refreshed_mount()
    assert place.downloaded() == 0
    assert (where / "file-0").read_bytes() == place.files["file-0"]
    place.driver.rotate(NEW)
    set_password(place.home / "htpasswd", NEW)
    before = refusals(basic)
    for name, data in place.files.items():
        assert (where / name).read_bytes() == data
    assert refusals(basic) > before, "the fault was met"
    assert place.downloaded() > FILE_BYTES * LAYERS


def test_without_a_driver_to_ask_a_rotated_password_fails_reads(
    place: Place, basic: RegistryServer
) -> None:
    place.index(basic.address)
    where = place.mount()
    set_password(place.home / "htpasswd", NEW)
    with pytest.raises(PermissionError):
        (where / "file-0").read_bytes()


def test_a_volume_that_is_gone_takes_its_credentials_along(
    place: Place, basic: RegistryServer
) -> None:
    place.index(basic.address)
    where = place.refreshed_mount()
    assert (where / "file-0").read_bytes() == place.files["file-0"]
    place.driver.volume_gone()
    told = "credentials are replaced by the driver"
    wait_for(lambda: told in [line["event"] for line in place.node.log(place.pid)])
    with pytest.raises(PermissionError):
        (where / "file-1").read_bytes()
    assert alive(place.pid)


@pytest.fixture
def tokens(place: Place) -> Iterator[TokenServer]:
    """Tokens that the registry takes for two seconds."""
    home = place.home / "auth"
    home.mkdir()
    users = {"user": OLD}
    with run_token_server(make_certificate(home), users=users, life_s=2 - LEEWAY_S) as server:
        yield server


def test_tokens_that_expire_and_a_password_that_is_rotated_fail_no_read(
    place: Place, tokens: TokenServer
) -> None:
    server = place.stack.enter_context(run_registry(place.home / "registry", token=tokens.auth))
    place.index(server.address, tokens.web.address)
    where = place.refreshed_mount()
    given = len(tokens.web.asked)
    for number, (name, data) in enumerate(place.files.items()):
        if number == 3:
            place.driver.rotate(NEW)
            tokens.users["user"] = NEW
        assert (where / name).read_bytes() == data
        wait_for_expiry(place, tokens)
    assert len(tokens.web.asked) - given >= 2 * LAYERS, "ours, and one for each read"


def wait_for_expiry(place: Place, tokens: TokenServer) -> None:
    """Until the registry refuses every token that has been given so far."""
    pair = base64.b64encode(f"user:{tokens.users['user']}".encode()).decode()
    asked = f"service={SERVICE}&scope=repository:private/app:pull"
    answer = get(f"{tokens.auth.realm}?{asked}", f"Basic {pair}")
    token = json.loads(answer[1])["token"]
    manifest = f"http://{place.registry}/v2/private/app/manifests/1"
    wait_for(lambda: get(manifest, f"Bearer {token}")[0] == 401, within_s=60)


def get(url: str, authorization: str) -> tuple[int, bytes]:
    answer = httpx.get(url, headers={"Authorization": authorization})
    return answer.status_code, answer.content


def test_what_is_secret_is_nowhere_to_be_seen(
    place: Place, basic: RegistryServer, capfd: pytest.CaptureFixture[str]
) -> None:
    place.index(basic.address)
    where = place.refreshed_mount()
    place.driver.rotate(NEW)
    set_password(place.home / "htpasswd", NEW)
    assert (where / "file-0").read_bytes() == place.files["file-0"]
    shown = [Path(f"/proc/{place.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    assert b"--credentials-socket" in shown[0]
    place.node.unmount(where)
    wait_for(lambda: not alive(place.pid))  # until then its files change their names
    files = [path for path in place.node.root.rglob("*") if path.is_file()]
    assert files
    shown += [path.read_bytes() for path in files]
    shown += [text.encode() for text in capfd.readouterr()]
    assert "credentials are lent" in shown[-2].decode() + shown[-1].decode()
    for secret in (OLD, NEW, base64.b64encode(f"user:{NEW}".encode()).decode()):
        assert not [text for text in shown if secret.encode() in text]
