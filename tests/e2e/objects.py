"""Kubernetes objects of the tests: what a user of the driver would write."""

import base64
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.kubernetes import DRIVER, NODE_LABEL, REGISTRY
from tests.support.apiserver import manifest

BUSYBOX = f"{REGISTRY}/busybox:1"


def inline(image: str, *, secret: str | None = None, **attributes: str) -> dict[str, Any]:
    """A volume of the pod's own; secret: its nodePublishSecretRef."""
    attributes = {"image": image, **attributes}
    named = {"nodePublishSecretRef": {"name": secret}} if secret else {}
    return {"csi": {"driver": DRIVER, "readOnly": True, "volumeAttributes": attributes, **named}}


def secret(name: str, **said: str) -> dict[str, Any]:
    """Applied again it has these keys and no others, which stringData would not see to."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {"app": "clip-test"}},
        "data": {key: base64.b64encode(one.encode()).decode() for key, one in said.items()},
    }


def claimed(claim: str) -> dict[str, Any]:
    """A volume by way of a claim."""
    return {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}


def pod(
    name: str,
    node: str,
    volume: dict[str, Any],
    *,
    containers: tuple[str, ...] = ("main",),
    sub_path: str = "",
    namespace: str = "default",
    pull_secret: str | None = None,
) -> dict[str, Any]:
    """A pod that sleeps, with the volume at /image in each of its containers."""
    mount = {"name": "image", "mountPath": "/image", "subPath": sub_path}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "clip-test"}},
        "spec": {
            "imagePullSecrets": [{"name": pull_secret}] if pull_secret else [],
            "nodeSelector": {NODE_LABEL: node},
            "terminationGracePeriodSeconds": 1,  # 0 would not wait for the kubelet
            "automountServiceAccountToken": False,
            "containers": [
                {"name": container, "image": BUSYBOX, "volumeMounts": [mount]}
                for container in containers
            ],
            "volumes": [{"name": "image", **volume}],
        },
    }


def example(name: str, image: str = "") -> dict[str, Any]:
    """The one object of a file in `manifests/examples`, with this cluster's images."""
    text = Path(manifest(f"examples/{name}.yaml")).read_text()
    text = text.replace("docker.io/library/python:3.12-slim", image)
    made: dict[str, Any] = yaml.safe_load(text.replace("busybox:1", BUSYBOX))
    made["metadata"]["labels"] = {"app": "clip-test"}
    return made


def persistent(name: str, image: str) -> list[dict[str, Any]]:
    """A static PersistentVolume of image, and the claim that it is bound to."""
    common = {
        "accessModes": ["ReadOnlyMany"],
        "storageClassName": "",
        "volumeName": name,
    }
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": {"app": "clip-test"}},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "claimRef": {"namespace": "default", "name": name},
            "csi": {
                "driver": DRIVER,
                "volumeHandle": name,
                "readOnly": True,
                "volumeAttributes": {"image": image},
            },
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": {"app": "clip-test"}},
        "spec": {**common, "resources": {"requests": {"storage": "1Gi"}}},
    }
    return [volume, claim]
