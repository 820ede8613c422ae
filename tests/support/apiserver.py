"""A real kube-apiserver on etcd, both on free loopback ports, with the authorizer RBAC on.

The programs are those that `make cluster-programs` builds. No controller runs: no service account
comes by itself, nothing is collected with its owner.
"""

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster_programs import BIN, missing
from tests.support.ports import free_port
from tests.support.wait import wait_for

_PROGRAMS = ("etcd", "kube-apiserver", "kubectl")
READY_S = 60

HAS_APISERVER = not missing(*_PROGRAMS)
needs_apiserver = pytest.mark.skipif(
    not HAS_APISERVER,
    reason=f"needs {', '.join(_PROGRAMS)}: `make cluster-programs`",
)
_MANIFESTS = Path(__file__).parents[2] / "manifests"


@dataclass(slots=True)
class ApiServer:
    """A running one; `stop` and `start` are its death and its return, at the same address."""

    home: Path
    port: int
    etcd_url: str
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Return when it is ready."""
        pki = self.home / "pki"
        command = [
            str(BIN / "kube-apiserver"),
            *(f"--etcd-servers={self.etcd_url}", f"--secure-port={self.port}"),
            *("--bind-address=127.0.0.1", "--endpoint-reconciler-type=none"),
            *(f"--cert-dir={pki}", f"--token-auth-file={self.home}/tokens.csv"),
            *("--authorization-mode=RBAC", "--service-account-issuer=https://kubernetes.test"),
            *(f"--service-account-key-file={pki}/sa.key", "--service-cluster-ip-range=10.0.0.0/24"),
            *(f"--service-account-signing-key-file={pki}/sa.key", "--allow-privileged=true"),
        ]
        with (self.home / "apiserver.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._is_ready, within_s=READY_S)

    def stop(self) -> None:
        """Kill it; connections break off."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def kubectl(self, *words: str, input: str | None = None, check: bool = True) -> str:
        """What kubectl says to an administrator; AssertionError with its complaint if it fails."""
        done = subprocess.run(
            [str(BIN / "kubectl"), f"--kubeconfig={self.kubeconfig('admin')}",
             f"--cache-dir={self.home}/kubectl-cache", *words],
            input=input, capture_output=True, text=True, check=False,
        )  # fmt: skip  # as typed by hand
        assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout if check else done.stdout + done.stderr

    def apply(self, *objects: dict[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "-f", "-", input=json.dumps(items))

    def objects(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        said = json.loads(self.kubectl("get", kind, "-n", namespace, "-o", "json"))
        return list(said["items"])

    def kubeconfig(self, name: str, *, token_file: Path | None = None) -> Path:
        """Of the administrator, or of who holds the token in token_file."""
        user = {"tokenFile": str(token_file)} if token_file else {"token": "admin"}
        path = self.home / f"{name}.kubeconfig"
        cluster = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority": str(self.home / "pki/apiserver.crt"),
        }
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": user}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "c",
                }
            )
        )
        return path

    def token_of(self, namespace: str, service_account: str) -> str:
        """What TokenRequest gives for it: what its pods have as theirs."""
        return self.kubectl("create", "token", "-n", namespace, service_account).strip()

    def allows(self, service_account: str, verb: str, resource: str, namespace: str) -> bool:
        """What its authorizer says; service_account is NAMESPACE:NAME."""
        who = f"--as=system:serviceaccount:{service_account}"
        kind, _, part = resource.partition("/")  # what kubectl takes for a name
        words = ("auth", "can-i", who, "-n", namespace, verb, kind, f"--subresource={part}")
        return "yes" in self.kubectl(*words, check=False).splitlines()

    def grant(self, path: str, verb: str, resource: str, *, namespace: str = "default") -> None:
        """Apply a file of roles; return when the authorizer knows that it gives this right."""
        self.kubectl("apply", "-n", namespace, "-f", path)
        wait_for(lambda: self.allows("clip:clip-node", verb, resource, namespace))

    def withdraw(self, path: str, verb: str, resource: str, *, namespace: str = "default") -> None:
        """Delete a file of roles; return when this right is gone."""
        self.kubectl("delete", "-n", namespace, "-f", path)
        wait_for(lambda: not self.allows("clip:clip-node", verb, resource, namespace))

    def _is_ready(self) -> bool:
        assert self._process is not None
        if (status := self._process.poll()) is not None:
            said = (self.home / "apiserver.log").read_text()[-2000:]
            raise RuntimeError(f"kube-apiserver ended with {status}: {said}")
        if not (self.home / "pki/apiserver.crt").exists():
            return False
        return self.kubectl("get", "--raw", "/readyz", check=False) == "ok"


@contextmanager
def run_apiserver(home: Path) -> Iterator[ApiServer]:
    """An empty cluster's API for the block; everything of it is below home."""
    (home / "pki").mkdir(parents=True)
    (home / "tokens.csv").write_text('admin,admin,admin,"system:masters"\n')
    key = ["openssl", "genrsa", "-out", f"{home}/pki/sa.key", "2048"]
    subprocess.run(key, check=True, capture_output=True)
    client, peer, port = (free_port() for _ in range(3))
    with ExitStack() as stack:
        stack.enter_context(_etcd(home, client, peer))
        server = ApiServer(home=home, port=port, etcd_url=f"http://127.0.0.1:{client}")
        stack.callback(server.stop)
        server.start()
        yield server


@contextmanager
def _etcd(home: Path, client: int, peer: int) -> Iterator[None]:
    client_url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    command = [
        *(str(BIN / "etcd"), "--data-dir", f"{home}/etcd", "--unsafe-no-fsync"),
        *("--listen-client-urls", client_url, "--advertise-client-urls", client_url),
        *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
        *("--initial-cluster", f"default={peer_url}"),
    ]
    with (
        (home / "etcd.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            yield
        finally:
            process.kill()


def manifest(name: str) -> str:
    """The path of a file in `manifests/`, for `kubectl apply -f`."""
    return str(_MANIFESTS / name)


def docker_config(host: str, user: str, password: str) -> dict[str, Any]:
    """The keys of a pull secret: what `kubectl create secret docker-registry` makes."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    config = json.dumps({"auths": {host: {"auth": auth}}}).encode()
    return {".dockerconfigjson": base64.b64encode(config).decode()}
