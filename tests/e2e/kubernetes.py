"""A cluster of two nodes, n1 and n2, on this machine, by the script `cluster` in CLUSTER_SCRIPTS.

Each node has mount, pid and network namespaces of its own; `on` looks at one from inside.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.registry import RegistryServer

NODES = ("n1", "n2")
REGISTRY = "10.88.0.1:5000"
SCRIPTS = Path(os.environ.get("CLUSTER_SCRIPTS", "../shared/cluster")).absolute()
UP_S = 300


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is up; `registry` is the one in it, with its access log."""

    registry: RegistryServer

    def kubectl(self, *words: str, input: str | None = None) -> str:
        """What kubectl says; AssertionError with its complaint if it fails."""
        return run("kubectl", *words, input=input)

    def apply(self, *objects: dict[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "-f", "-", input=json.dumps(items))

    def wait_ready(self, *pods: str, within_s: int = 120) -> None:
        """Return when all pods are Ready; AssertionError shows what stands in their way."""
        try:
            names = [f"pod/{pod}" for pod in pods]
            self.kubectl("wait", "--for=condition=Ready", f"--timeout={within_s}s", *names)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.kubectl('describe', 'pod', *pods)}") from None

    def exec(self, pod: str, *words: str, container: str | None = None) -> str:
        """What a command in the pod says; AssertionError with its complaint if it fails."""
        chosen = ["-c", container] if container else []
        return self.kubectl("exec", pod, *chosen, "--", *words)

    def on(self, node: str, *words: str, check: bool = True) -> str:
        """What a command says that runs as a process of the node itself."""
        return run("on", node, *words, check=check)

    def push(self, layout: Path, name: str) -> str:
        """Copy the image tagged `x` in layout to the cluster's registry; its reference."""
        run("push", f"{layout}:x", name)
        return f"{REGISTRY}/{name}"


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """The cluster that is up, or one for the block."""
    found = _run("kubectl", "get", "--raw", "/readyz").returncode == 0
    if not found:
        run("down")
        run("up")
    try:
        kubeconfig = Path(run("on", "n0", "printenv", "KUBECONFIG").strip())
        yield Cluster(RegistryServer(REGISTRY, kubeconfig.parent / "log/registry"))
    finally:
        if not found:
            run("down")


def run(*words: str, input: str | None = None, check: bool = True) -> str:
    done = _run(*words, input=input)
    assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def _run(*words: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPTS / "cluster"), *words],
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        timeout=UP_S,
        check=False,
    )
