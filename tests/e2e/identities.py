"""A registry that service accounts open, and the plugin that trades their tokens for it.

    driver ── the pod's token ──► plugin ── POST ──► trader ── TokenReview ──► API server
       ◄──── name, password ─────────◄──────────────────┘
       └── name, password ──► token server ──► the registry's own token, for what the account may

The plugin is a program as the kubelet's credential providers are. Trader and token server are
threads of the tests in the control plane's network, the registry a process there.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.kubernetes import HOST, Cluster
from tests.e2e.registries import IDENTITY, IDENTITY_TOKENS
from tests.support import images
from tests.support.helm import Values
from tests.support.netns import in_network
from tests.support.registry import make_certificate, run_registry
from tests.support.tokens import run_token_server
from tests.support.web import Asked, Reply, run_web

AUDIENCE = "registry.clip-test.example"
PUSHER, PUSH_PASSWORD = "pusher", "the-password-of-pusher"
TRADER = f"{HOST}:5009"

_PLUGIN = """\
#!/usr/bin/env python3
import json, sys, urllib.request
asked = json.load(sys.stdin)
trade = urllib.request.Request(sys.argv[1], data=asked["serviceAccountToken"].encode())
with urllib.request.urlopen(trade, timeout=30) as answer:
    auth = {asked["image"].partition("/")[0]: json.load(answer)}
print(json.dumps({"apiVersion": asked["apiVersion"], "kind": "CredentialProviderResponse",
                  "cacheKeyType": "Registry", "auth": auth}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What the API server says of a token that a plugin brought; user is None of a wrong one."""

    token: str = field(repr=False)
    user: str | None
    audiences: tuple[str, ...]
    pod_uid: str | None


@dataclass(frozen=True, slots=True)
class Identities:
    """may      who may pull below which repository; everybody else may nothing
    passwords  by name: what the trader has given out
    """

    cluster: Cluster
    home: Path
    may: dict[str, str]
    passwords: dict[str, str]
    reviews: list[Review]

    @property
    def values(self) -> Values:
        """Of the chart: the plugin, on nodes that are this machine, and its token's audience."""
        return {
            "registries": {
                "credentialProviders": {
                    "configFile": str(self.home / "config.json"),
                    "binDir": str(self.home / "bin"),
                    "tokenAudiences": [AUDIENCE],
                }
            }
        }

    def push(self, layout: Path, name: str) -> str:
        """The reference of the image tagged `x` in layout, once it is there."""
        with in_network("n0"):
            return images.push(layout, IDENTITY, name, creds=f"{PUSHER}:{PUSH_PASSWORD}")

    def secrets(self) -> set[str]:
        """All that the plugin was given, and all that it got for that."""
        given = {one.token for one in self.reviews}
        return given | (set(self.passwords.values()) - {PUSH_PASSWORD})


@contextmanager
def running_identities(cluster: Cluster, home: Path) -> Iterator[Identities]:
    passwords, may = {PUSHER: PUSH_PASSWORD}, {PUSHER: ""}
    reviews: list[Review] = []

    def trade(asked: Asked) -> Reply:
        """A name and a password for the account whose token it is."""
        review = _reviewed(cluster, asked.body.decode())
        reviews.append(review)
        if review.user is None or AUDIENCE not in review.audiences:
            return Reply(403)
        name = review.user.replace(":", ".")  # in basic credentials a colon ends the name
        password = passwords.setdefault(name, secrets.token_hex(16))
        return Reply(body=json.dumps({"username": name, "password": password}).encode())

    def is_allowed(name: str, repository: str) -> bool:
        return name in may and repository.startswith(may[name])

    certificate = make_certificate(home)
    _write_plugin(home)
    with ExitStack() as stack:
        with in_network("n0"):
            server = run_token_server(
                certificate, users=passwords, may=is_allowed, listen=IDENTITY_TOKENS
            )
            auth = stack.enter_context(server).auth
            stack.enter_context(run_web(trade, listen=TRADER))
            registry = run_registry(home / "registry", token=auth, address=IDENTITY)
            stack.enter_context(registry)
        yield Identities(cluster, home, may, passwords, reviews)


def _reviewed(cluster: Cluster, token: str) -> Review:
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [AUDIENCE]},
    }
    said = cluster.kubectl("create", "-f", "-", "-o", "json", input=json.dumps(review))
    status: dict[str, Any] = json.loads(said)["status"]
    user = status.get("user", {}) if status.get("authenticated") else {}
    (pod_uid,) = user.get("extra", {}).get("authentication.kubernetes.io/pod-uid", [None])
    return Review(
        token=token,
        user=user.get("username"),
        audiences=tuple(status.get("audiences", ())),
        pod_uid=pod_uid,
    )


def _write_plugin(home: Path) -> None:
    program = home / "bin/trade-token"
    program.parent.mkdir()
    program.write_text(_PLUGIN)
    program.chmod(0o755)
    provider = {
        "name": program.name,
        "args": [f"http://{TRADER}/"],
        "matchImages": [IDENTITY],
        "defaultCacheDuration": "1m",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "tokenAttributes": {
            "serviceAccountTokenAudience": AUDIENCE,
            "requireServiceAccount": True,
            "cacheType": "ServiceAccount",
        },
    }
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1",
        "kind": "CredentialProviderConfig",
        "providers": [provider],
    }
    (home / "config.json").write_text(json.dumps(config))
