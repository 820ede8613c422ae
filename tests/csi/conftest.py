"""A small image, and drivers on a root of the test's own."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.content import ContentServer, run_content_server
from tests.support.driver import Driver, cleaned_up, run_driver
from tests.support.node import Node
from tests.support.registry import RegistryServer
from tests.support.scraped import METRICS
from tests.support.scripted_registry import ScriptedRegistry, run_scripted_registry
from tests.support.without import changed_environment

Start = Callable[..., Driver]


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with `hello`, `deep/er/file` and 3 MiB of `data`."""
    home = tmp_path_factory.mktemp("image")
    (home / "1/deep/er").mkdir(parents=True)
    (home / "1/deep/er/file").write_text("below\n")
    (home / "1/hello").write_text("world\n")
    (home / "1/data").write_bytes(os.urandom(3 << 20))
    images.write_layout(home / "oci", [images.layer(home / "1", home / "1.tar")])
    return home / "oci"


@pytest.fixture(scope="session")
def layout_data(layout: Path) -> bytes:
    """The content of `data`."""
    return (layout.parent / "1/data").read_bytes()


@pytest.fixture(scope="session")
def blob_bytes(layout: Path) -> int:
    """The compressed size of its one layer."""

    def document(digest: str) -> Any:
        return json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())

    (manifest,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    (layer,) = document(manifest["digest"])["layers"]
    size: int = layer["size"]
    return size


@pytest.fixture(scope="session")
def image(layout: Path, registry: RegistryServer) -> str:
    return images.push(layout, registry.address, "driver:1")


@pytest.fixture(scope="session")
def other_image(registry: RegistryServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that shares nothing with `image`."""
    home = tmp_path_factory.mktemp("other")
    (home / "1").mkdir()
    (home / "1/hello").write_text("other\n")
    images.write_layout(home / "oci", [images.layer(home / "1", home / "1.tar")])
    return images.push(home / "oci", registry.address, "driver-other:1")


@pytest.fixture
def scripted(layout: Path) -> Iterator[ScriptedRegistry]:
    """The same image, from a registry that misbehaves on request."""
    with run_scripted_registry(layout) as script:
        yield script


@pytest.fixture
def start(tmp_path: Path, registry: RegistryServer, scripted: ScriptedRegistry) -> Iterator[Start]:
    """Starts a driver on the test's root; called again, the next one on the same root.

    Its front is fuse unless the test says otherwise: most of them ask what becomes of servers.
    linger_s is how long its work on an image goes on that no call waits for.
    """
    with cleaned_up(tmp_path), ExitStack() as stack:

        def begin(*options: str, linger_s: float | None = None) -> Driver:
            hosts = (registry.address, scripted.address, "127.0.0.1:1")
            plain = [word for host in hosts for word in ("--plain-http", host)]
            environment = None
            if linger_s is not None:
                new = f"LINGER_S = {linger_s}"
                environment = changed_environment(
                    tmp_path / "changes", module="csi.work", old="LINGER_S = 300", new=new
                )
            return stack.enter_context(
                run_driver(
                    tmp_path / "home",
                    [*plain, "--front", "fuse", *options],
                    root=tmp_path / "root",
                    environment=environment,
                )
            )

        yield begin


@pytest.fixture
def driver(start: Start) -> Driver:
    return start()


@dataclass(frozen=True, slots=True)
class Lazy:
    """A driver whose volume of `image` has no byte on its node yet: its reads wait for `cache`."""

    driver: Driver
    cache: ContentServer
    target: Path


@pytest.fixture
def lazy(start: Start, image: str, registry: RegistryServer, tmp_path: Path) -> Iterator[Lazy]:
    (tmp_path / "key").write_text("the cluster's key\n")
    with run_content_server(tmp_path / "cache") as cache:
        shared = ["--content-cache", cache.url,
                  "--content-cache-token-file", str(tmp_path / "cache/token"),
                  "--index-key-file", str(tmp_path / "key")]  # fmt: skip # as typed by hand
        Node(tmp_path / "A", [*shared, "--plain-http", registry.address]).json("index", image)
        driver = start(*shared, *METRICS)
        yield Lazy(driver, cache, driver.publish("pod", image))
