"""A stand-in for the API server's events and ClipMounts: two dicts, and what was asked.

What it does is held to what a real one does by `tests/csi/cluster/test_laws.py`.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from csi.cluster.api import Json
from csi.cluster.errors import ApiRejected, ApiUnavailable

Named = dict[tuple[str, str], dict[str, Any]]


@dataclass(slots=True)
class MemoryCluster:
    """requests  the names of all calls, those that failed too"""

    events: Named = field(default_factory=dict)
    mounts: Named = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    is_down: bool = False
    refuses: Exception | None = None

    def create_event(self, namespace: str, event: Json) -> None:
        self._asked("create_event")
        key = (namespace, event["metadata"]["name"])
        if key in self.events:
            raise ApiRejected("it exists", status=409)
        self.events[key] = dict(deepcopy(event))

    def patch_event(self, namespace: str, name: str, change: Json) -> bool:
        self._asked("patch_event")
        found = self.events.get((namespace, name))
        if found is not None:
            found.update(change)
        return found is not None

    def clip_mount(self, namespace: str, name: str) -> Json | None:
        self._asked("clip_mount")
        return deepcopy(self.mounts.get((namespace, name)))

    def apply_clip_mount(self, namespace: str, name: str, fields: Json) -> None:
        self._asked("apply_clip_mount")
        found = self.mounts.setdefault((namespace, name), {})
        found.update(deepcopy(fields))

    def apply_clip_mount_status(self, namespace: str, name: str, fields: Json) -> bool:
        self._asked("apply_clip_mount_status")
        found = self.mounts.get((namespace, name))
        if found is not None:
            found["status"] = deepcopy(fields["status"])
        return found is not None

    def delete_clip_mount(self, namespace: str, name: str) -> None:
        self._asked("delete_clip_mount")
        self.mounts.pop((namespace, name), None)

    def told(self, reason: str) -> Sequence[dict[str, Any]]:
        """The events of that reason, in the order in which they were made."""
        return [one for one in self.events.values() if one["reason"] == reason]

    def _asked(self, call: str) -> None:
        self.requests.append(call)
        if self.is_down:
            raise ApiUnavailable("the API server does not answer")
        if self.refuses is not None:
            raise self.refuses
