"""Tier 2 as nodes are told of it: replicas of the content cache, or a real store that speaks S3.

    with using(store.environment):             # commands run here know its credentials
    with counted(store) as (through, relays):  # the same store, and what it answers

Not here: what is measured with them (`bench.second_node`).
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.content import run_content_server
from tests.support.s3_server import S3Server, run_s3_server
from tests.support.throttle import Throttle, throttle

REPLICAS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A tier 2 that has the image: a node's options for it, and its addresses.

    environment  of a node's commands
    addresses    host:port of its servers, which are named so in options and environment
    """

    name: str
    options: tuple[str, ...]
    environment: Mapping[str, str]
    addresses: tuple[str, ...]

    def through(self, relays: Mapping[str, str]) -> "Store":
        """The same by other addresses."""

        def moved(text: str) -> str:
            for old, new in relays.items():
                text = text.replace(old, new)
            return text

        return Store(
            name=self.name,
            options=tuple(map(moved, self.options)),
            environment={name: moved(value) for name, value in self.environment.items()},
            addresses=tuple(map(moved, self.addresses)),
        )


def replicas(stack: ExitStack, home: Path) -> Store:
    servers = [
        stack.enter_context(run_content_server(home / f"replica-{number}"))
        for number in range(REPLICAS)
    ]
    options = [word for server in servers for word in ("--content-cache", server.url)]
    return Store(
        name="HTTP",
        options=(*options, "--content-cache-token-file", str(home / "replica-0" / "token")),
        environment={},
        addresses=tuple(f"127.0.0.1:{server.port}" for server in servers),
    )


def object_store(stack: ExitStack, home: Path) -> Store:
    server: S3Server = stack.enter_context(run_s3_server(home / "s3"))
    server.make_bucket("bench")
    return Store(
        name="S3",
        options=("--content-cache", "s3://bench/second-node"),
        environment=server.environment(),
        addresses=(f"127.0.0.1:{server.port}",),
    )


@contextmanager
def using(environment: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def counted(store: Store) -> Iterator[tuple[Store, list[Throttle]]]:
    """The store through relays that count what it answers."""
    with ExitStack() as stack:
        made = {one: stack.enter_context(throttle(one)) for one in store.addresses}
        through = store.through({one: throttled.address for one, throttled in made.items()})
        yield through, list(made.values())
