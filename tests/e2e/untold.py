"""Whether a secret has come to where others could read it, on any node of a real cluster."""

from collections.abc import Collection

from tests.e2e.kubernetes import NODES
from tests.e2e.product import Product

FOLDERS = ("/images", "/var/lib/kubelet")
"""The driver's, and the kubelet's with its sockets and the pods' volumes; what is mounted below the
latter is left out: pods' own secrets."""


def assert_untold(product: Product, words: Collection[str], *, known: str) -> None:
    """None is in a log of the driver's, an event, a ClipMount, an argument or a variable of a
    process, a file of FOLDERS; but `known` is in one of the first three."""
    assert words, "there is nothing that could be told"
    told = product.cluster.kubectl("get", "events,clipmounts", "-A", "-o", "json")
    for node in NODES:
        told += product.log(node)
    assert known in told, "it is not what was to be looked at"
    for node in NODES:
        told += _processes(product, node)
    assert not [word for word in words if word in told]
    for node in NODES:
        for word in words:
            grep = ("grep", "-lF", "--", word, "{}", "+")
            find = ("find", *FOLDERS, "-xdev", "-type", "f", "-exec", *grep)
            assert product.cluster.on(node, *find, check=False) == ""


def _processes(product: Product, node: str) -> str:
    script = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' ' '"
    return product.cluster.on(node, "sh", "-c", script)
