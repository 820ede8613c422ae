"""A ClipMount: what is known of one volume, and the object that says it.

Pure. When it is written: `csi.status.mounts`.
Source: `charts/clip-csi/templates/clipmount-crd.yaml`; Kubernetes API conventions, Condition.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from clipfs.cli.sizes import human_bytes
from clipfs.errors import ClipError
from csi.cluster.api import GROUP, VERSION, Json
from csi.status.reporter import Mounted, Subject
from csi.status.texts import failure_text

Phase = Literal["Resolving", "Indexing", "Mounted", "Degraded", "Failed"]
READABLE: tuple[Phase, ...] = ("Mounted", "Degraded")
SHORT_DIGITS = 12
"""Of a digest where people compare nodes at a glance: as many as `docker` shows."""

Counts = Mapping[str, int]
_TIERS = {"disk": "disk", "content_cache": "contentCache", "registry": "registry"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LastError:
    """code is clipfs's, kind its class: a condition's reason."""

    code: str
    kind: str
    message: str
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is known of a volume now; times are RFC 3339.

    figures         counters; None as long as there are none
    ready_since     of how it stands with the condition Ready, degraded_since with Degraded
    degraded        why, and the way out
    """

    subject: Subject
    phase: Phase = "Resolving"
    digest: str = ""
    progress: str = ""
    figures: Mounted | None = None
    degraded: str = ""
    error: LastError | None = None
    ready_since: str
    degraded_since: str


def changed(state: State, time: str, **fields: Any) -> State:
    """The state after a change: a condition's time moves only if the condition does."""
    after = replace(state, **fields)
    if is_ready(after) != is_ready(state):
        after = replace(after, ready_since=time)
    if (after.phase == "Degraded") != (state.phase == "Degraded"):
        after = replace(after, degraded_since=time)
    return after


def is_ready(state: State) -> bool:
    return state.phase in READABLE


def news(state: State) -> tuple[str, ...]:
    """What is worth a write at once: all but counters, progress and the times of errors."""
    code = state.error.code if state.error and state.phase == "Failed" else ""
    return state.phase, state.digest, state.degraded, code


def grown(total: Mapping[str, int], before: Mapping[str, int], now: Mapping[str, int]) -> Counts:
    """The totals by tier, after counters that stood at before have come to now.

    One that stands lower counts anew: another mount, another server. What is not counted stays.
    """
    after = dict(total)
    for tier, count in now.items():
        seen = before.get(tier, 0)
        after[tier] = total.get(tier, 0) + (count - seen if count >= seen else count)
    return after


def last_error(error: ClipError, time: str) -> LastError:
    kind = type(error)
    return LastError(code=kind.code, kind=kind.__name__, message=failure_text(error), time=time)


def object_name(subject: Subject) -> str:
    """The same for the same volume in the same pod, and a valid name whatever the volume's id."""
    words = "\0".join(subject.key).encode()
    return f"{subject.pod.name[:200].rstrip('.-')}-{hashlib.sha256(words).hexdigest()[:12]}"


def object_fields(subject: Subject, node: str) -> Json:
    """All but the status, for server-side apply; it goes with its pod."""
    pod = subject.pod
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "ClipMount",
        "metadata": {
            "name": object_name(subject),
            "namespace": pod.namespace,
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
            ],
        },
        "spec": {
            "image": subject.image,
            "pod": pod.name,
            "node": node,
            "volume": subject.volume_id,
        },
    }


def status_fields(state: State) -> Json:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "ClipMount",
        "metadata": {"name": object_name(state.subject), "namespace": state.subject.pod.namespace},
        "status": _status(state),
    }


def says(found: Json, state: State) -> bool:
    """Whether the object found says all of state already, its times apart."""
    status = dict(found.get("status") or {})
    return _timeless(status) == _timeless(_status(state))


def carried(found: Json, state: State) -> State:
    """state, with what only the object found knows of an earlier driver's time."""
    status = found.get("status") or {}
    since = {
        (one.get("type"), one.get("status")): one.get("lastTransitionTime")
        for one in status.get("conditions") or ()
    }
    ready, degraded = (since.get((one["type"], one["status"])) for one in _conditions(state))
    figures = state.figures
    if figures is not None:
        known = status.get("bytes") or {}
        counts = dict(figures.bytes_by_tier)
        for tier, name in _TIERS.items():
            if name in known:  # as ours, or more: it knows what counted before
                counts[tier] = max(known[name], counts.get(tier, 0))
        figures = replace(figures, bytes_by_tier=counts)
    return replace(
        state,
        figures=figures,
        ready_since=ready or state.ready_since,
        degraded_since=degraded or state.degraded_since,
        error=state.error or _error_in(status),
    )


def _error_in(status: Json) -> LastError | None:
    error = status.get("lastError")
    if not error:
        return None
    return LastError(code=error["code"], kind="", message=error["message"], time=error["time"])


def _status(state: State) -> dict[str, Any]:
    status: dict[str, Any] = {"phase": state.phase, "conditions": _conditions(state)}
    if state.digest:
        status |= {"digest": state.digest, "shortDigest": _short(state.digest)}
    if state.progress and state.phase == "Indexing":
        status["progress"] = state.progress
    if state.figures is not None:
        status |= _figures(state.figures)
    if state.error is not None:
        error = state.error
        status["lastError"] = {"code": error.code, "message": error.message, "time": error.time}
    return status


def _short(digest: str) -> str:
    return digest.rpartition(":")[2][:SHORT_DIGITS]


def _figures(figures: Mounted) -> dict[str, Any]:
    counts = {
        name: figures.bytes_by_tier[tier]
        for tier, name in _TIERS.items()
        if tier in figures.bytes_by_tier
    }
    return {
        "front": figures.front,
        "layers": {
            "total": figures.layers,
            "complete": figures.complete,
            "summary": f"{figures.complete}/{figures.layers}",
        },
        "bytes": counts,
        "read": {name: human_bytes(count) for name, count in counts.items()},
    }


def _conditions(state: State) -> list[dict[str, str]]:
    failed = state.error if state.phase == "Failed" else None
    degraded = state.phase == "Degraded"
    return [
        {
            "type": "Ready",
            "status": str(is_ready(state)),
            "reason": (failed.kind if failed else "") or state.phase,
            "message": failed.message if failed else state.progress * (state.phase == "Indexing"),
            "lastTransitionTime": state.ready_since,
        },
        {
            "type": "Degraded",
            "status": str(degraded),
            "reason": "SomethingMissing" if degraded else "AsExpected",
            "message": state.degraded if degraded else "",
            "lastTransitionTime": state.degraded_since,
        },
    ]


def _timeless(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """A status without its times, and the last error, which an earlier driver has met."""
    kept = {key: value for key, value in status.items() if key not in ("conditions", "lastError")}
    kept["conditions"] = [
        {key: value for key, value in one.items() if key != "lastTransitionTime"}
        for one in status.get("conditions") or ()
    ]
    return kept
