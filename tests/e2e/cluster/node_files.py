"""A node's private folders and what its programs are told."""

import json
from pathlib import Path

from tests.e2e.cluster import pki
from tests.e2e.cluster.place import (
    API,
    DOMAIN,
    PODS,
    REGISTRY,
    address,
    folder_of,
    pods_of,
)
from tests.support.cluster_programs import BIN

SHOWN_AT = {
    "kubelet": "/var/lib/kubelet",
    "images": "/images",
    "run": "/run/containerd",
    "log": "/var/log/pods",
    "containers": "/var/log/containers",
}
"""Folder of the node's own -> where its processes see it."""

CONTAINERD = """\
version = 3
root = '{folder}/root'
state = '/run/containerd'
[grpc]
  address = '/run/containerd/containerd.sock'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{registry}/pause:1'
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '{folder}/certs.d'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true # a container has no CAP_SYS_RESOURCE
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['{bin}']
  conf_dir = '{folder}/cni'
[plugins.'io.containerd.nri.v1.nri']
  disable = true
"""


def write(node: str) -> None:
    folder = folder_of(node)
    for name in (*SHOWN_AT, "root", "cni", "cnilib", "volplugins", f"certs.d/{REGISTRY}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / f"certs.d/{REGISTRY}/hosts.toml").write_text(f'server = "http://{REGISTRY}"\n')
    config = CONTAINERD.format(folder=folder, registry=REGISTRY, bin=BIN.absolute())
    (folder / "containerd.toml").write_text(config)
    _put(folder / "cni/10-pods.conflist", _network(node))
    _put(folder / "kubelet.yaml", _kubelet(node))
    _put(folder / "proxy.yaml", _proxy(node))


def _network(node: str) -> dict[str, object]:
    addresses = {
        "type": "host-local",
        "dataDir": f"{folder_of(node)}/cnilib",
        "ranges": [[{"subnet": pods_of(node)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}


def _kubelet(node: str) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address(node),
        "healthzBindAddress": "127.0.0.1",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},  # its port is seen by this cluster alone
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,  # whose cgroups this machine has, it does not say
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "1Mi",
            "nodefs.available": "100Mi",
            "imagefs.available": "100Mi",
        },
        "clusterDNS": [API],
        "clusterDomain": DOMAIN,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "volumePluginDir": f"{folder_of(node)}/volplugins",
        "syncFrequency": "10s",
    }


def _proxy(node: str) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node,
        "clusterCIDR": PODS,
        "clientConnection": {"kubeconfig": str(pki.kubeconfig("proxy"))},
        "conntrack": {
            "maxPerCore": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def _put(path: Path, config: dict[str, object]) -> None:
    path.write_text(json.dumps(config, indent=1))
