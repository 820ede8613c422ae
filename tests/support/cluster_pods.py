"""Pods of a real API server that nobody runs, and their events as kubectl describes them."""

from csi.pod import Pod
from tests.support.apiserver import ApiServer


def make_pod(server: ApiServer, name: str, namespace: str) -> Pod:
    """One, in a namespace that is made if it is not there."""
    where = {"namespace": namespace}
    server.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", **where}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, **where},
            "spec": {"containers": [{"name": "c", "image": "none"}]},
        },
    )
    path = "jsonpath={.metadata.uid}"
    uid = server.kubectl("get", "pod", "-n", namespace, name, "-o", path)
    return Pod(namespace=namespace, name=name, uid=uid, service_account="default")


def described(server: ApiServer, pod: Pod) -> list[str]:
    """The lines of its events that are the driver's, blanks folded."""
    said = server.kubectl("describe", "pod", "-n", pod.namespace, pod.name)
    lines = [" ".join(line.split()) for line in said.partition("Events:")[2].splitlines()]
    return [line for line in lines if "csi.clipfs.dev" in line]
