"""A node: a process in fresh mount, pid and network namespaces, and its three programs in there.

The node's end is that process' end: with it go all others and all mounts.
"""

from pathlib import Path
from shlex import quote

from tests.e2e.cluster import node_files, pki
from tests.e2e.cluster.place import address, folder_of
from tests.e2e.cluster.processes import inside, run, start, succeeds, until

PROGRAMS = ("containerd", "kubelet", "kube-proxy")


def start_node(node: str) -> None:
    """Return when its programs run; the cluster knows it a moment later."""
    node_files.write(node)
    folder = folder_of(node)
    ready = folder / "ready"
    binds = "".join(
        f"mount --bind {quote(str(folder / own))} {there}; mount --make-rshared {there}; "
        for own, there in node_files.SHOWN_AT.items()
    )
    script = f"mount --make-rshared /; {binds} touch {quote(str(ready))}; exec tini -s -- sleep inf"
    name = f"{node}.ns"
    start(name, [
        "nsenter", f"--net=/run/netns/{node}", "unshare", "-m", "-p", "--fork",
        "--kill-child", "--mount-proc", "--propagation", "private", "sh", "-ec", script,
    ])  # fmt: skip # as typed by hand
    until(f"the namespaces of {node}", ready.exists, name, within_s=10)
    start_program(node, "containerd")
    version = [*inside(node), "ctr", "version"]
    until(f"containerd on {node}", lambda: succeeds(*version), f"{node}.containerd", within_s=20)
    start_program(node, "kubelet")
    start_program(node, "kube-proxy")


def start_program(node: str, program: str) -> None:
    """Its pid, as the node sees it, is kept for `stop_program`."""
    script = f"echo $$ >{quote(str(_pid_file(node, program)))}; exec {_command(node, program)}"
    start(f"{node}.{program}", [*inside(node), "sh", "-c", script])


def stop_program(node: str, program: str) -> None:
    """Return when it has ended; what it has started stays."""
    pid = _pid_file(node, program).read_text().strip()
    run(*inside(node), "kill", pid)
    gone = [*inside(node), "test", "!", "-e", f"/proc/{pid}"]
    until(f"the end of {program} on {node}", lambda: succeeds(*gone))


def restart_program(node: str, program: str) -> None:
    """End it, and start it again as soon as it has ended."""
    stop_program(node, program)
    start_program(node, program)


def _pid_file(node: str, program: str) -> Path:
    return folder_of(node) / f"{program}.pid"


def _command(node: str, program: str) -> str:
    folder = folder_of(node)
    zone = node.replace("n", "z")
    return {
        "containerd": f"containerd -c {folder}/containerd.toml",
        "kubelet": f"kubelet --config={folder}/kubelet.yaml --hostname-override={node}"
        f" --kubeconfig={pki.kubeconfig(node)} --node-ip={address(node)}"
        f" --node-labels=topology.kubernetes.io/zone={zone}",
        "kube-proxy": f"kube-proxy --config={folder}/proxy.yaml",
    }[program]
