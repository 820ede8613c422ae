"""Nodes of one cluster with a tier 2 of either kind, by the installed command."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

from tests.support.content import ContentServer
from tests.support.node import Node
from tests.support.wait import wait_for


def tier2_options(url: str, token_file: Path | None, home: Path) -> list[str]:
    """What each node of the cluster is given; they sign with one key."""
    (home / "key").write_text("the cluster's key\n")
    options = ["--content-cache", url, "--index-key-file", str(home / "key")]
    return options + (["--content-cache-token-file", str(token_file)] if token_file else [])


def options_of_server(server: ContentServer, home: Path) -> list[str]:
    return tier2_options(server.url, server.folder / "token", home)


@contextmanager
def nodes_of(
    home: Path,
    names: str,
    options: Sequence[str],
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[list[Node]]:
    """A node for each letter of names; what they mounted is unmounted after the block."""
    with ExitStack() as stack:
        made = [Node(home / name, options, environment) for name in names]
        for node in made:
            stack.callback(node.close)
        yield made


def stored(node: Node, within_s: float = 60) -> None:
    """Wait until nothing of node is on its way to tier 2."""
    wait_for(lambda: not node.json("stats")["storing"], within_s=within_s)
