"""Certificates, tokens and kubeconfigs of the cluster. Its secrets guard nothing but itself."""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.cluster.place import ADMIN, API, API_SERVICE, DOMAIN, STATE
from tests.e2e.cluster.processes import run

PKI = STATE / "pki"
TOKENS = STATE / "tokens.csv"
NAMES = (
    f"IP:{API}", "IP:127.0.0.1", f"IP:{API_SERVICE}", "DNS:kubernetes", "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc", f"DNS:kubernetes.default.svc.{DOMAIN}",
)  # fmt: skip # one list
USERS = {
    "admin": ("admin", "system:masters"),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
}
"""Who has a kubeconfig -> user and group."""


def make(nodes: Sequence[str]) -> None:
    """A CA, the API server's certificate, the service accounts' key; a kubeconfig for everybody."""
    PKI.mkdir()
    _certificate("ca", "-subj", "/CN=ca")
    signed = ("-CA", f"{PKI}/ca.crt", "-CAkey", f"{PKI}/ca.key")
    _certificate("api", "-subj", "/CN=api", *signed,
                 "-addext", f"subjectAltName={','.join(NAMES)}",
                 "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip # as typed by hand
    run("openssl", "genrsa", "-out", f"{PKI}/sa.key", "2048")
    users = USERS | {node: (f"system:node:{node}", "system:nodes") for node in nodes}
    TOKENS.write_text(
        "".join(f"{name}-token,{user},{name},{group}\n" for name, (user, group) in users.items())
    )
    for name in users:
        _write_kubeconfig(kubeconfig(name), f"{name}-token")


def kubeconfig(name: str) -> Path:
    return ADMIN.with_name(f"{name}.kubeconfig")


def _certificate(name: str, *words: str) -> None:
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
        "-keyout", f"{PKI}/{name}.key", "-out", f"{PKI}/{name}.crt", *words)  # fmt: skip


def _write_kubeconfig(path: Path, token: str) -> None:
    cluster = {"server": f"https://{API}:6443", "certificate-authority": f"{PKI}/ca.crt"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path.write_text(json.dumps(config))
