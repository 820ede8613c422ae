"""The calls that the driver makes to the Kubernetes API, by who makes them.

Objects are as in JSON. Every call may raise the errors of `csi.cluster.errors`; what is looked
up and is not there is None.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Json = Mapping[str, Any]

GROUP = "clipfs.dev"
VERSION = "v1alpha1"
PLURAL = "clipmounts"


class EventApi(Protocol):
    def create_event(self, namespace: str, event: Json) -> None:
        """A new event, of core/v1."""

    def patch_event(self, namespace: str, name: str, change: Json) -> bool:
        """Merge change into the event; False: it is not there any more."""


class ClipMountApi(Protocol):
    def clip_mount(self, namespace: str, name: str) -> Json | None: ...

    def apply_clip_mount(self, namespace: str, name: str, fields: Json) -> None:
        """Everything but the status is as fields say, by server-side apply."""

    def apply_clip_mount_status(self, namespace: str, name: str, fields: Json) -> bool:
        """The status is as fields say; False: there is no such ClipMount."""

    def delete_clip_mount(self, namespace: str, name: str) -> None:
        """Gone already is done."""


class PodApi(Protocol):
    def pod(self, namespace: str, name: str) -> Json | None: ...

    def service_account(self, namespace: str, name: str) -> Json | None: ...

    def secret(self, namespace: str, name: str) -> Json | None: ...


class NodeApi(Protocol):
    def csi_node(self, name: str) -> Json | None: ...

    def node(self, name: str) -> Json | None: ...

    def set_taints(self, name: str, taints: Sequence[Json], resource_version: str) -> None:
        """The node has these taints; ApiRejected if it is not what it was at that version."""


class Cluster(EventApi, ClipMountApi, PodApi, NodeApi, Protocol):
    """All of it."""
