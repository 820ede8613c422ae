"""The startup taint: pods stay away from a node until its kubelet knows the driver.

An administrator registers nodes with it; it is taken away once, after the node's CSINode lists
the driver, and never put back: a driver that restarts has its volumes as before.

Source: Kubernetes, "Taints and Tolerations"; storage.k8s.io/v1 CSINode, which the kubelet writes.
"""

import threading
from collections.abc import Callable

from clipfs.log import log
from csi.cluster.api import NodeApi
from csi.cluster.errors import ApiRefused, ApiRejected, ApiUnavailable

FIRST_RETRY_S, LAST_RETRY_S = 2.0, 60.0
"""Pauses double in between: a node that is never to be ready must not load the API server."""


def remove_when_listed(
    api: NodeApi, *, key: str, node: str, driver: str, pause: Callable[[float], bool]
) -> None:
    """Return when node has no taint of this key; errors are retried.

    pause  waits so many seconds; True: give up
    """
    complaint, pause_s = "", FIRST_RETRY_S
    while True:
        try:
            if _done(api, key=key, node=node, driver=driver):
                return
        except (ApiRefused, ApiRejected, ApiUnavailable) as error:
            if str(error) != complaint:  # the same one again says no more
                complaint = str(error)
                log.warning("startup taint stays for now", node=node, error=complaint)
        if pause(pause_s):
            return
        pause_s = min(2 * pause_s, LAST_RETRY_S)


def start(
    api: NodeApi, *, key: str, node: str, driver: str, ended: threading.Event
) -> threading.Thread:
    """The same in a thread of its own, until ended is set."""

    def run() -> None:
        remove_when_listed(api, key=key, node=node, driver=driver, pause=ended.wait)

    thread = threading.Thread(target=run, name="startup-taint", daemon=True)
    thread.start()
    return thread


def _done(api: NodeApi, *, key: str, node: str, driver: str) -> bool:
    """Whether the taint is gone now; it is taken away if the driver is listed."""
    csi_node = api.csi_node(node) or {}
    drivers = csi_node.get("spec", {}).get("drivers") or ()
    if driver not in [one["name"] for one in drivers]:
        return False
    found = api.node(node)
    if found is None:
        return False
    taints = found["spec"].get("taints") or []
    staying = [taint for taint in taints if taint["key"] != key]
    if len(staying) < len(taints):
        api.set_taints(node, staying, found["metadata"]["resourceVersion"])
        log.info("startup taint removed", node=node, taint=key)
    return True
