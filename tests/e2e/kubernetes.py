"""The tests' cluster: the one that KUBECONFIG names, or else the harness' (`tests.e2e.cluster`).

Tests call two of its nodes n1 and n2; they carry the label NODE_LABEL meanwhile. What looks at a
node from inside, or reads the registry's log, needs the harness: elsewhere it skips and says why.

A cluster of one's own: two nodes that take pods, and E2E_REGISTRY, a registry by plain HTTP as the
nodes name it; E2E_PUSH, if this machine names it otherwise.
"""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from tests.e2e.cluster import images
from tests.e2e.cluster.place import ADMIN, API, CONTROL, STATE, environment
from tests.e2e.cluster.place import REGISTRY as OWN_REGISTRY
from tests.e2e.cluster.processes import inside
from tests.support.registry import RegistryServer
from tests.support.wait import wait_for

NODES = ("n1", "n2")
NODE_LABEL = "clip-test/node"
DRIVER = "csi.clipfs.dev"
HOST = API
"""The control plane's address; it is the namespace n0 that has it."""

REGISTRY = os.environ.get("E2E_REGISTRY") or OWN_REGISTRY
UP_S = 300
MAX_WATCHED_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is up.

    is_own  the harness', whose nodes and registry are on this machine
    nodes   n1 and n2 -> their names in the cluster
    """

    is_own: bool
    nodes: dict[str, str]

    @property
    def registry(self) -> RegistryServer:
        """The one in the cluster, with its access log."""
        self._need_own("it reads the log of the cluster's registry")
        return RegistryServer(REGISTRY, STATE / "log/registry")

    @property
    def home(self) -> Path:
        """Where the harness keeps what it runs."""
        self._need_own("it looks at what the control plane keeps")
        return STATE

    def kubectl(self, *words: str, input: str | None = None) -> str:
        """What kubectl says; AssertionError with its complaint if it fails."""
        return _said(_kubectl(self.is_own, *words), input=input)

    def client(self, *words: str) -> str:
        """What a program says that asks the cluster as kubectl does, however it ends."""
        return _said(_client(self.is_own, *words), check=False)

    def apply(self, *objects: dict[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "-f", "-", input=json.dumps(items))

    def helm(self, *words: str, input: str | None = None) -> str:
        """What helm says; AssertionError with its complaint if it fails."""
        return _said(_client(self.is_own, "helm", *words), input=input)

    def wait_ready(self, *pods: str, namespace: str = "default", within_s: int = 120) -> None:
        """Return when all pods are Ready; AssertionError shows what stands in their way."""
        where = ("-n", namespace)
        try:
            names = [f"pod/{pod}" for pod in pods]
            self.kubectl("wait", *where, "--for=condition=Ready", f"--timeout={within_s}s", *names)
        except AssertionError as error:
            why = self.kubectl("describe", "pod", *where, *pods)
            raise AssertionError(f"{error}\n{why}") from None

    def exec(
        self, pod: str, *words: str, container: str | None = None, namespace: str = "default"
    ) -> str:
        """What a command in the pod says; AssertionError with its complaint if it fails."""
        chosen = ["-c", container] if container else []
        return self.kubectl("exec", "-n", namespace, pod, *chosen, "--", *words)

    def events(self, pod: str, *, namespace: str = "default", of: str = DRIVER) -> list[str]:
        """The lines that `kubectl describe pod` has from a component, blanks folded, without age:
        "Normal ClipMounted ..."."""
        said = self.kubectl("describe", "pod", "-n", namespace, pod)
        lines = [" ".join(line.split()) for line in said.partition("Events:")[2].splitlines()]
        told = [line.partition(f" {of} ") for line in lines if f" {of} " in line]
        return [f"{' '.join(head.split()[:2])} {message}" for head, _, message in told]

    def wait_event(
        self,
        pattern: str,
        pod: str,
        *,
        namespace: str = "default",
        of: str = DRIVER,
        within_s: float = 60,
    ) -> str:
        """The line of `events` that matches pattern, once there is one; AssertionError shows what
        is there instead."""
        told: list[str] = []

        def found() -> str | None:
            told[:] = self.events(pod, namespace=namespace, of=of)
            return next((one for one in told if re.fullmatch(pattern, one)), None)

        try:
            return wait_for(found, within_s)
        except TimeoutError:
            raise AssertionError("\n".join([f"{pattern} is not among:", *told])) from None

    def objects(self, kind: str, *, namespace: str = "default") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self.kubectl("get", kind, "-n", namespace, "-o", "json")
        )["items"]
        return found

    def asked_by(self, account: str) -> list[str]:
        """The requests of a service account, NAMESPACE:NAME, to the API server so far: "create
        events"."""
        self._need_own("it reads the API server's audit log")
        found = map(json.loads, (STATE / "log/audit").read_text().splitlines())
        user = f"system:serviceaccount:{account}"
        return [
            f"{one['verb']} {one['objectRef']['resource']}"
            for one in found
            if one["user"]["username"] == user and "objectRef" in one
        ]

    def make_namespace(self, name: str) -> None:
        """Return when pods can be made in it."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        wait_for(lambda: self.objects("serviceaccounts", namespace=name))

    def on(self, node: str, *words: str, check: bool = True) -> str:
        """What a command says that runs as a process of the node itself."""
        self._need_own(f"it looks at {node} from inside")
        return _said([*inside(node), *words], check=check)

    @contextmanager
    def watched(self, name: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
        """What gives all versions of an object so far, from the one at the begin of the block."""
        words = _kubectl(self.is_own, "get", "-o", "json", "--watch", name)
        with (
            tempfile.TemporaryFile() as out,
            subprocess.Popen(
                words, stdout=out, env=_environment(), start_new_session=True
            ) as watching,
        ):
            try:
                wait_for(lambda: _documents(out))
                yield lambda: _documents(out)
            finally:
                os.killpg(watching.pid, signal.SIGTERM)

    def read_by_runtime(self, node: str, pod: str, path: str) -> str | None:
        """What a file of the pod's container is on node, asked at its containerd: its sha256;
        None while the container does not run."""
        labels = (
            f'labels."io.kubernetes.pod.name"=={pod},labels."io.cri-containerd.kind"==container'
        )
        ctr = ("ctr", "--namespace", "k8s.io")
        running = self.on(node, *ctr, "tasks", "list", "--quiet").split()
        found = self.on(node, *ctr, "containers", "list", "--quiet", labels).split()
        for one in {*found} & {*running}:
            words = ("tasks", "exec", "--exec-id", secrets.token_hex(4), one, "sha256sum", path)
            return self.on(node, *ctr, *words).split()[0]
        return None

    @contextmanager
    def without(self, node: str, program: str) -> Iterator[None]:
        """The kubelet or containerd of node does not run in the block; it may take a while after
        that until it does all that it should."""
        self._need_own(f"it restarts {program}")
        harness("stop", node, program)
        try:
            yield
        finally:
            harness("start", node, program)

    @contextmanager
    def without_api_server(self) -> Iterator[None]:
        """Nobody is answered in the block, or told why."""
        pid = int((self.home / "pid/apiserver").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)
        self.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")

    def push(self, layout: Path, name: str) -> str:
        """Copy the image tagged `x` in layout to the cluster's registry; its reference."""
        _push(self.is_own, f"{layout}:x", name)
        return f"{REGISTRY}/{name}"

    def _need_own(self, why: str) -> None:
        if not self.is_own:
            pytest.skip(f"needs the nodes and the registry of `make e2e`: {why}")


@contextmanager
def running_cluster(*, keep: bool = False) -> Iterator[Cluster]:
    """The cluster that KUBECONFIG names; without it the harness', which is started for the block if
    it is not up, and stays after it with keep."""
    if os.environ.get("KUBECONFIG") not in (None, "", str(ADMIN)):
        yield _named_cluster()
        return
    found = STATE.exists() and not _run(_kubectl(True, "get", "--raw", "/readyz")).returncode
    if not found:
        harness("down")
        harness("up")
    try:
        yield Cluster(True, _labelled(True, list(NODES)))
    finally:
        if not found and not keep:
            harness("down")


def _named_cluster() -> Cluster:
    assert "E2E_REGISTRY" in os.environ, (
        "E2E_REGISTRY must name a registry by plain HTTP that the cluster's nodes reach"
    )
    listed = json.loads(_said(_kubectl(False, "get", "node", "-o", "json")))["items"]
    found = [node["metadata"]["name"] for node in listed if not node["spec"].get("taints")]
    assert len(found) >= len(NODES), f"two nodes without taints are needed, here are: {found}"
    with tempfile.TemporaryDirectory() as home:
        _push(False, images.busybox(Path(home)), "busybox:1")
    return Cluster(False, _labelled(False, sorted(found)))


def _labelled(is_own: bool, found: list[str]) -> dict[str, str]:
    nodes = dict(zip(NODES, found, strict=False))
    for node, name in nodes.items():
        _said(_kubectl(is_own, "label", "--overwrite", "node", name, f"{NODE_LABEL}={node}"))
    return nodes


def harness(*words: str) -> str:
    """What a command of the harness says: `harness("restart", "n1", "kubelet")`."""
    return _said([sys.executable, "-m", "tests.e2e.cluster", *words])


def _documents(file: IO[bytes]) -> list[dict[str, Any]]:
    """JSON objects one after another, as far as they are whole."""
    text, found, at = os.pread(file.fileno(), MAX_WATCHED_BYTES, 0).decode(), [], 0
    while text[at:].strip():
        try:
            one, at = json.JSONDecoder().raw_decode(text, at + text[at:].index("{"))
        except ValueError:
            break
        found.append(one)
    return found


def _kubectl(is_own: bool, *words: str) -> list[str]:
    return _client(is_own, "kubectl", *words)


def _client(is_own: bool, *words: str) -> list[str]:
    return [*(inside(CONTROL) if is_own else []), *words]


def _push(is_own: bool, layout: str, name: str) -> None:
    host = REGISTRY if is_own else os.environ.get("E2E_PUSH", REGISTRY)
    _said(_client(is_own, *images.push_command(layout, f"{host}/{name}")))


def _said(command: list[str], *, input: str | None = None, check: bool = True) -> str:
    done = _run(command, input=input)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def _run(command: list[str], input: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=UP_S,
        check=False,
    )


def _environment() -> dict[str, str]:
    return {**environment(), "KUBECONFIG": os.environ.get("KUBECONFIG") or str(ADMIN)}
