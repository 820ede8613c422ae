"""What the kubelet gives with a publish: the volume's secret, and tokens of the service account.

Pure. Errors name keys and audiences, never what they hold.
Source: Kubernetes, `nodePublishSecretRef`; secrets of type kubernetes.io/dockerconfigjson;
CSIDriver `tokenRequests` and `serviceAccountTokenInSecrets`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.reference import Reference

DOCKER_CONFIG = ".dockerconfigjson"
TOKENS_KEY = "csi.storage.k8s.io/serviceAccount.tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccountToken:
    """A token for one audience; the kubelet sends another one with the next publish only."""

    text: str = field(repr=False)
    expires_at: float


class _Token(msgspec.Struct, rename="camel"):
    token: str
    expiration_timestamp: datetime


def config_of(secrets: Mapping[str, str], image: Reference) -> RegistryConfig:
    """The credentials in secrets; a bare username counts for the image's own registry only.

    Raises  InvalidInput, which names the keys that there may be, never what they hold
    """
    secrets = {key: value for key, value in secrets.items() if key != TOKENS_KEY}
    if DOCKER_CONFIG in secrets:
        return RegistryConfig.from_json(
            secrets[DOCKER_CONFIG].encode(), source=f"{DOCKER_CONFIG} of the volume's secret"
        )
    if "username" in secrets and "password" in secrets:
        return RegistryConfig.single(image.registry, secrets["username"], secrets["password"])
    if secrets:
        raise errors.InvalidInput(
            f"the volume's secret needs {DOCKER_CONFIG}, or username and password; it has "
            f"{', '.join(sorted(secrets))[:200]}"
        )
    return RegistryConfig.empty()


def tokens_of(
    context: Mapping[str, str], secrets: Mapping[str, str]
) -> Mapping[str, ServiceAccountToken]:
    """The tokens of a publish, by audience: in its secrets, or else in its volume_context.

    To be asked only where the CSIDriver sets tokenRequests: else it is the pod's author who
    wrote those of the context. No Secret can have a key of that name.
    """
    text = secrets.get(TOKENS_KEY) or context.get(TOKENS_KEY)
    if not text:
        return {}
    try:
        found = msgspec.json.decode(text, type=dict[str, _Token])
        return {
            audience: ServiceAccountToken(
                text=one.token, expires_at=one.expiration_timestamp.timestamp()
            )
            for audience, one in found.items()
        }
    except (ValueError, OverflowError, RecursionError):
        raise errors.InvalidInput(
            f"{TOKENS_KEY} of the publish is not the kubelet's JSON of tokens by audience"
        ) from None  # the cause may quote a token
