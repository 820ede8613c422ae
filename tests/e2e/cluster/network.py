"""A network namespace for the control plane, with the bridge, and one a node, joined to it."""

from collections.abc import Sequence

from tests.e2e.cluster.place import (
    API,
    CONTROL,
    address,
    nodes,
    pods_of,
)
from tests.e2e.cluster.processes import run, succeeds

BRIDGE = "br0"


def make(names: Sequence[str]) -> None:
    _add(CONTROL)
    _ip(CONTROL, "link", "add", BRIDGE, "type", "bridge")
    _ip(CONTROL, "addr", "add", f"{API}/24", "dev", BRIDGE)
    _ip(CONTROL, "link", "set", BRIDGE, "up")
    for node in names:
        _join(node)
        for other in set(names) - {node}:
            _ip(node, "route", "add", pods_of(other), "via", address(other))


def _join(node: str) -> None:
    _add(node)
    cable = f"v{node}"
    _ip(CONTROL, "link", "add", cable, "type", "veth",
        "peer", "name", "eth0", "netns", node)  # fmt: skip # as typed by hand
    _ip(CONTROL, "link", "set", cable, "master", BRIDGE, "up")
    _ip(node, "addr", "add", f"{address(node)}/24", "dev", "eth0")
    _ip(node, "link", "set", "eth0", "up")
    _ip(node, "route", "add", "default", "via", API)
    _ip(CONTROL, "route", "add", pods_of(node), "via", address(node))
    run("ip", "netns", "exec", node, "sysctl", "-qw", "net.ipv4.ip_forward=1")


def remove() -> None:
    for node in (CONTROL, *nodes()):
        succeeds("ip", "netns", "del", node)


def _add(node: str) -> None:
    run("ip", "netns", "add", node)
    _ip(node, "link", "set", "lo", "up")


def _ip(node: str, *words: str) -> None:
    run("ip", "-n", node, *words)
