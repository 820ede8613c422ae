"""Pods whose volumes are of private images: with a secret of the volume, or a pod's pull secret."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from csi.pod import Pod
from tests.soak.origins import Origin
from tests.support.apiserver import ApiServer, docker_config, manifest, run_apiserver
from tests.support.driver import Driver

NAMESPACE = "soak"
PULL_SECRET = "registry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One file's, from its begin; error is empty for the right bytes."""

    at_s: float
    took_s: float
    error: str = ""


@dataclass(slots=True, kw_only=True)
class Tenant:
    """One pod with one volume.

    files   their digests by name, one a layer
    secret  of the volume (nodePublishSecretRef); None: the pod has a pull secret instead
    """

    pod: Pod
    origin: Origin
    repository: str
    files: dict[str, str]
    secret: dict[str, str] | None
    reads: list[Read] = field(default_factory=list)

    @property
    def image(self) -> str:
        return f"{self.origin.watched.address}/{self.repository}:1"

    def publish(self, driver: Driver) -> Path:
        """As the kubelet does, for the first time or once more."""
        said = {
            "pod.namespace": self.pod.namespace,
            "pod.uid": self.pod.uid,
            "serviceAccount.name": self.pod.service_account,
        }
        attributes = {f"csi.storage.k8s.io/{key}": value for key, value in said.items()}
        return driver.publish(self.pod.name, self.image, self.secret, attributes=attributes)

    def read(self, driver: Driver, name: str) -> None:
        at_s, begin = time.time(), time.monotonic()
        try:
            data = (driver.target(self.pod.name) / name).read_bytes()
            is_right = hashlib.sha256(data).hexdigest() == self.files[name]
            error = "" if is_right else f"{name}: wrong bytes"
        except OSError as failure:
            error = f"{name}: {failure.strerror}"
        self.reads.append(Read(at_s=at_s, took_s=time.monotonic() - begin, error=error))


@dataclass(frozen=True, slots=True)
class Cluster:
    """The API server that the driver asks for pull secrets, with the rights of our manifests."""

    server: ApiServer
    kubeconfig: Path

    def pod(self, name: str, pull_secret: str = "") -> Pod:
        secrets = [{"name": pull_secret}] if pull_secret else []
        containers = [{"name": "c", "image": "none"}]
        self._apply("Pod", name, spec={"containers": containers, "imagePullSecrets": secrets})
        words = ("get", "pod", "-n", NAMESPACE, name, "-o", "jsonpath={.metadata.uid}")
        uid = self.server.kubectl(*words)
        return Pod(namespace=NAMESPACE, name=name, uid=uid, service_account="default")

    def pull_secret(self, name: str, host: str, user: str, password: str) -> None:
        data = docker_config(host, user, password)
        self._apply("Secret", name, type="kubernetes.io/dockerconfigjson", data=data)

    def _apply(self, kind: str, name: str, **fields: object) -> None:
        metadata = {"name": name, "namespace": NAMESPACE}
        self.server.apply({"apiVersion": "v1", "kind": kind, "metadata": metadata, **fields})


@contextmanager
def run_cluster(home: Path) -> Iterator[Cluster]:
    """A real API server in which the driver may read the pull secrets of one namespace."""
    with run_apiserver(home) as server:
        server.kubectl("apply", "-f", manifest("clip-csi.yaml"))
        metadata = {"name": "default", "namespace": NAMESPACE}
        server.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        )
        role = manifest("examples/pull-secrets.yaml")
        server.grant(role, "get", "secrets", namespace=NAMESPACE)
        token = home / "driver-token"
        token.write_text(server.token_of("clip", "clip-node"))
        yield Cluster(server, server.kubeconfig("driver", token_file=token))
