"""A node of a driver, a content cache and a slow way to it and to the registry; and its state.

Two images that share a layer are published on it, again and again; the tests harm it meanwhile.
"""

import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from tests.support import images
from tests.support.content import run_content_server
from tests.support.driver import Driver, cleaned_up, run_driver
from tests.support.leftovers import diff_ids, litter, unverified
from tests.support.registry import RegistryServer
from tests.support.throttle import Throttle, throttle
from tests.support.wait import wait_for

BYTES_PER_S = 8 << 20
PODS = ("one", "two")

Tree = dict[str, str]
"""Name of a file -> SHA-256 of its bytes."""


@dataclass(frozen=True, slots=True)
class Image:
    layout: Path
    name: str
    tree: Tree


def make_pair(home: Path, registry: RegistryServer) -> tuple[Image, Image]:
    """Images of two and of three layers, the lowest of which they share."""
    packed = {}
    for number, name in enumerate(("base", "one", "two", "top")):
        (home / name).mkdir(parents=True)
        for part in range(3):
            data = random.Random(f"{number}.{part}").randbytes((1 << 20) + part * 77)
            (home / name / f"{name}-{part}").write_bytes(data)
        packed[name] = images.layer(home / name, home / f"{name}.tar")
    found = []
    for pod in PODS:
        names = ["base", pod] if pod == "one" else ["base", pod, "top"]
        layout = home / f"oci-{pod}"
        images.write_layout(layout, [packed[name] for name in names])
        tree = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name in names
            for path in (home / name).iterdir()
        }
        name = images.push(layout, registry.address, f"rounds-{pod}:1").partition("/")[2]
        found.append(Image(layout, name, tree))
    return found[0], found[1]


@dataclass(slots=True)
class Scene:
    """A node between two slow relays; `kept` has its indexes and the content cache's objects."""

    home: Path
    pair: tuple[Image, Image]
    registry: Throttle
    content: Throttle
    objects: Path
    options: list[str]
    stack: ExitStack
    dice: random.Random
    expected: dict[str, str] = field(default_factory=dict)
    """Cache key -> digest of the payload."""

    usual_s: dict[tuple[str, str], float] = field(default_factory=dict)
    """How long publishes last by victim and state, found by kills that come too late or in time."""

    driver: Driver = field(init=False)

    @property
    def root(self) -> Path:
        return self.home / "root"

    def start(self) -> None:
        self.stack.close()
        self.driver = self.stack.enter_context(
            run_driver(self.home / "home", self.options, root=self.root)
        )

    def publish(self, place: int, front: str) -> Path:
        name = f"{self.registry.address}/{self.pair[place].name}"
        return self.driver.publish(PODS[place], name, attributes={"front": front})

    def slow(self, is_slow: bool) -> None:
        for relay in (self.registry, self.content):
            relay.bytes_per_s = BYTES_PER_S if is_slow else None

    def prepare(self, state: str) -> None:
        """Bring node and content cache into a state; nothing is published or runs.

        new     the images are on neither
        known   their indexes are on the node, their bytes in the registry alone
        shared  their indexes are on the node, their bytes in the content cache
        """
        emptied(self.root / "cache")
        if state == "new":
            emptied(self.root / "index", but="key")
        else:
            shutil.copytree(self.home / "kept-index", self.root / "index", dirs_exist_ok=True)
        emptied(self.objects)
        if state == "shared":
            shutil.copytree(self.home / "kept-objects", self.objects, dirs_exist_ok=True)

    def keep(self) -> None:
        """What an undisturbed publish of both makes: the round's states are made of it."""
        for place in range(2):
            self.publish(place, "fuse")
        wait_for(lambda: not list((self.root / "run/storing").iterdir()), 30)
        assert self.clear() == []
        shutil.copytree(self.root / "index", self.home / "kept-index")
        shutil.copytree(self.objects, self.home / "kept-objects")

    def clear(self) -> list[str]:
        """Unpublish; what stays behind, once there was time for it to go."""
        for pod in PODS:
            self.driver.unpublish(pod)
        left: list[str] = []

        def is_clean() -> bool:
            left[:] = litter(self.root, driver=self.driver.process.pid)
            left.extend(pod for pod in PODS if os.path.lexists(self.driver.target(pod)))
            return not left

        try:
            wait_for(is_clean, 20)
        except TimeoutError:
            return [f"stays behind: {one}" for one in left]
        return []

    def judged(self, front: str) -> list[str]:
        """Complaints about the node, on which a kill has just happened."""
        wrong = unverified(self.root, self.expected)
        if self.driver.process.poll() is not None:
            self.start()
        for place, image in enumerate(self.pair):
            try:
                found = tree_of(self.publish(place, front))
            except (grpc.RpcError, OSError) as error:
                wrong.append(f"the next publish of {image.name}: {error}")
                continue
            wrong += differing(image, found)
        wrong += unverified(self.root, self.expected)
        return [*wrong, *self.clear()]


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_of(target: Path) -> Tree:
    return {path.name: hash_of(path) for path in target.iterdir()}


def differing(image: Image, found: Tree) -> list[str]:
    names = sorted(image.tree.items() ^ found.items())
    return [f"{image.name}: {name} differs" for name, _ in names]


def emptied(folder: Path, *, but: str = "") -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != but:
            path.unlink(missing_ok=True)


@contextmanager
def run_scene(home: Path, registry: RegistryServer, dice: random.Random) -> Iterator[Scene]:
    """A driver on a root of its own, with nothing published."""
    (home / "key").write_text("the cluster's key\n")
    pair = make_pair(home / "pair", registry)
    with ExitStack() as stack:
        cache = stack.enter_context(run_content_server(home / "content"))
        slow_registry = stack.enter_context(throttle(registry.address))
        slow_content = stack.enter_context(throttle(f"127.0.0.1:{cache.port}"))
        options = ["--plain-http", slow_registry.address,
                   "--content-cache", f"http://{slow_content.address}",
                   "--content-cache-token-file", str(home / "content/token"),
                   "--index-key-file", str(home / "key")]  # fmt: skip # as typed by hand
        stack.enter_context(cleaned_up(home))
        found = Scene(
            home=home,
            pair=pair,
            registry=slow_registry,
            content=slow_content,
            objects=cache.objects,
            options=options,
            stack=stack.enter_context(ExitStack()),
            dice=dice,
        )
        for image in pair:
            found.expected |= diff_ids(image.layout)
        found.start()
        found.keep()
        yield found
