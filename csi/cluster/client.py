"""The calls of `csi.cluster.api` by the `kubernetes` client; loaded with a cluster only.

Its generic half is used, which sends JSON as it is: the generated classes have no server-side
apply of a custom resource, and would copy each object into models that nobody needs.

Source: Kubernetes API concepts (server-side apply, merge patch, resourceVersion).
"""

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import urllib3
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException

from clipfs.log import log
from csi.cluster.api import GROUP, PLURAL, VERSION, Json
from csi.cluster.errors import ApiRefused, ApiRejected, ApiUnavailable

FIELD_MANAGER = "csi.clipfs.dev"
TIMEOUT_S = (2, 4)
"""To connect, and for each answer."""

_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_MERGE = "application/merge-patch+json"
_APPLIED = [("fieldManager", FIELD_MANAGER), ("force", "true")]


class ClusterClient:
    """Every call of every Protocol in `csi.cluster.api`; from any thread."""

    def __init__(self, open_client: Callable[[], ApiClient]) -> None:
        """open_client  reads the credentials as they are now; asked again when they are refused"""
        self._open = open_client
        self._client = open_client()

    def create_event(self, namespace: str, event: Json) -> None:
        self._ask("POST", f"{_core(namespace)}/events", event)

    def patch_event(self, namespace: str, name: str, change: Json) -> bool:
        path = f"{_core(namespace)}/events/{quote(name)}"
        return self._found("PATCH", path, change, content_type=_MERGE) is not None

    def clip_mount(self, namespace: str, name: str) -> Json | None:
        return self._found("GET", _clip_mount(namespace, name))

    def apply_clip_mount(self, namespace: str, name: str, fields: Json) -> None:
        path = _clip_mount(namespace, name)
        self._ask("PATCH", path, fields, content_type=_APPLY, query=_APPLIED)

    def apply_clip_mount_status(self, namespace: str, name: str, fields: Json) -> bool:
        path = f"{_clip_mount(namespace, name)}/status"
        found = self._found("PATCH", path, fields, content_type=_APPLY, query=_APPLIED)
        return found is not None

    def delete_clip_mount(self, namespace: str, name: str) -> None:
        self._found("DELETE", _clip_mount(namespace, name))

    def pod(self, namespace: str, name: str) -> Json | None:
        return self._found("GET", f"{_core(namespace)}/pods/{quote(name)}")

    def service_account(self, namespace: str, name: str) -> Json | None:
        return self._found("GET", f"{_core(namespace)}/serviceaccounts/{quote(name)}")

    def secret(self, namespace: str, name: str) -> Json | None:
        return self._found("GET", f"{_core(namespace)}/secrets/{quote(name)}")

    def csi_node(self, name: str) -> Json | None:
        return self._found("GET", f"/apis/storage.k8s.io/v1/csinodes/{quote(name)}")

    def node(self, name: str) -> Json | None:
        return self._found("GET", f"/api/v1/nodes/{quote(name)}")

    def set_taints(self, name: str, taints: Sequence[Json], resource_version: str) -> None:
        change = {
            "metadata": {"resourceVersion": resource_version},
            "spec": {"taints": list(taints)},
        }
        self._ask("PATCH", f"/api/v1/nodes/{quote(name)}", change, content_type=_MERGE)

    def _found(self, *words: Any, **more: Any) -> Json | None:
        try:
            return self._ask(*words, **more)
        except ApiRejected as error:
            if error.status == 404:
                return None
            raise

    def _ask(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content_type: str = "application/json",
        query: Sequence[tuple[str, str]] = (),
    ) -> Json:
        what = (method, path, body, content_type, query)
        status, answer = _sent(self._client, *what)
        if status == 401 and self._renewed():
            status, answer = _sent(self._client, *what)
        _raise_if_failed(status, answer, f"{method} {path}")
        try:
            found: Json = json.loads(answer)
        except ValueError as error:
            raise ApiUnavailable(f"{method} {path}: {status}, and no JSON: a proxy's?") from error
        return found

    def _renewed(self) -> bool:
        """Whether the credentials could be read again: they are replaced while we run."""
        try:
            self._client = self._open()
        except Exception as error:  # half written, or gone: they may hold a token, so no text
            log.warning("credentials for the API server not read", error=type(error).__name__)
            return False
        return True


def _sent(
    client: ApiClient,
    method: str,
    path: str,
    body: Json | None,
    content_type: str,
    query: Sequence[tuple[str, str]],
) -> tuple[int, bytes]:
    try:
        request = client.param_serialize(  # which may have to read the token
            method,
            path,
            query_params=list(query),
            header_params={"Content-Type": content_type, "Accept": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = client.call_api(*request, _request_timeout=TIMEOUT_S)
        return response.status, response.read()
    except (urllib3.exceptions.HTTPError, ApiException, ConfigException, OSError) as error:
        raise ApiUnavailable(f"the API server does not answer: {_line(str(error))}") from error


def _raise_if_failed(status: int, answer: bytes, what: str) -> None:
    if status < 400:
        return
    said = f"{what}: {status} {_message(answer)}"
    if status in (401, 403):
        raise ApiRefused(said)
    if status == 429 or status >= 500:
        raise ApiUnavailable(said)
    raise ApiRejected(said, status=status)


def _message(answer: bytes) -> str:
    """What a Status says, on one line; some proxy's page says nothing."""
    try:
        return _line(str(json.loads(answer)["message"]))
    except (ValueError, KeyError, TypeError):
        return ""


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _core(namespace: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace)}"


def _clip_mount(namespace: str, name: str) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{quote(namespace)}/{PLURAL}/{quote(name)}"
