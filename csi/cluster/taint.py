"""The startup taint: pods stay away from a node until its kubelet knows the driver.

An administrator registers nodes with it; it is taken away once, after the node's CSINode lists
the driver, and never put back: a driver that restarts has its volumes as before.

Source: Kubernetes, "Taints and Tolerations"; storage.k8s.io/v1 CSINode, which the kubelet writes.
"""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

from clipfs.log import log
from csi.cluster.api import Json, NodeApi
from csi.cluster.errors import ApiRefused, ApiRejected, ApiUnavailable

FIRST_RETRY_S, LAST_RETRY_S = 2.0, 60.0
"""Pauses double in between: a node that is never to be ready must not load the API server."""

_NAME = r"[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_DNS = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*"
_TAINT = re.compile(
    rf"(?P<key>(?:(?P<prefix>{_DNS})/)?{_NAME})(?:=(?P<value>(?:{_NAME})?))?"
    "(?::(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?"
)
MAX_PREFIX_CHARACTERS = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupTaint:
    """Which taint it is; None: whatever its value or its effect."""

    key: str
    value: str | None = None
    effect: str | None = None

    def is_it(self, taint: Json) -> bool:
        return bool(
            taint["key"] == self.key
            and self.value in (None, taint.get("value") or "")
            and self.effect in (None, taint["effect"])
        )


def parse_taint(text: str) -> StartupTaint:
    """ValueError if text is no KEY[=VALUE][:EFFECT], as kubectl writes it."""
    found = _TAINT.fullmatch(text)
    if found is None or len(found["prefix"] or "") > MAX_PREFIX_CHARACTERS:
        raise ValueError(
            f"{text[:100]!r} is no taint; write KEY[=VALUE][:EFFECT], as kubectl does: "
            "clipfs.dev/not-ready, or clipfs.dev/not-ready=:NoSchedule"
        )
    return StartupTaint(key=found["key"], value=found["value"], effect=found["effect"])


def remove_when_listed(
    api: NodeApi, *, taint: StartupTaint, node: str, driver: str, pause: Callable[[float], bool]
) -> None:
    """Return when node does not have the taint; errors are retried.

    pause  waits so many seconds; True: give up
    """
    complaint, pause_s = "", FIRST_RETRY_S
    while True:
        try:
            if _done(api, taint=taint, node=node, driver=driver):
                return
        except (ApiRefused, ApiRejected, ApiUnavailable) as error:
            if str(error) != complaint:  # the same one again says no more
                complaint = str(error)
                log.warning("startup taint stays for now", node=node, error=complaint)
        if pause(pause_s):
            return
        pause_s = min(2 * pause_s, LAST_RETRY_S)


def start(
    api: NodeApi, *, taint: StartupTaint, node: str, driver: str, ended: threading.Event
) -> threading.Thread:
    """The same in a thread of its own, until ended is set."""

    def run() -> None:
        remove_when_listed(api, taint=taint, node=node, driver=driver, pause=ended.wait)

    thread = threading.Thread(target=run, name="startup-taint", daemon=True)
    thread.start()
    return thread


def _done(api: NodeApi, *, taint: StartupTaint, node: str, driver: str) -> bool:
    """Whether the taint is gone now; it is taken away if the driver is listed."""
    csi_node = api.csi_node(node) or {}
    drivers = csi_node.get("spec", {}).get("drivers") or ()
    if driver not in [one["name"] for one in drivers]:
        return False
    found = api.node(node)
    if found is None:
        return False
    taints = found["spec"].get("taints") or []
    staying = [one for one in taints if not taint.is_it(one)]
    if len(staying) < len(taints):
        api.set_taints(node, staying, found["metadata"]["resourceVersion"])
        log.info("startup taint removed", node=node, taint=taint.key)
    return True
