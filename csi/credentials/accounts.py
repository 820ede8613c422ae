"""The service account that a plugin's answer is for: what tells it from others.

Source: Kubernetes, pkg/credentialprovider/plugin/plugin.go (generateServiceAccountCacheKey);
the claim `kubernetes.io` of its tokens.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Protocol

import msgspec

from csi.credentials.provider_config import TokenAttributes
from csi.pod import Pod


class ServiceAccounts(Protocol):
    def service_account_annotations(self, pod: Pod) -> Mapping[str, str]:
        """Of the pod's service account; ClipError if the cluster does not say."""


def account_key(
    wants: TokenAttributes, pod: Pod, token: str, annotations: Mapping[str, str]
) -> str:
    """What an answer holds for: this token, or every token of one service account."""
    uid = _uid_in(token) if wants.cache_type == "ServiceAccount" else None
    of = hashlib.sha256(token.encode()).hexdigest() if uid is None else uid
    return msgspec.json.encode(
        [pod.namespace, pod.service_account, of, sorted(annotations.items())]
    ).decode()


class _Account(msgspec.Struct, frozen=True):
    uid: str


class _Cluster(msgspec.Struct, frozen=True):
    serviceaccount: _Account


class _Claims(msgspec.Struct, frozen=True):
    cluster: _Cluster = msgspec.field(name="kubernetes.io")


def _uid_in(token: str) -> str | None:
    """The service account that a token is of, which another one of its name is not."""
    try:
        body = token.split(".")[1]
        padded = body + "=" * (-len(body) % 4)
        claims = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=_Claims)
    except (IndexError, ValueError, RecursionError):
        return None
    return claims.cluster.serviceaccount.uid
