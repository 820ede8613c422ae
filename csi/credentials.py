"""A pod's registry credentials, out of the secret that the kubelet sends with a publish.

Source: Kubernetes, `nodePublishSecretRef`; secrets of type kubernetes.io/dockerconfigjson.
"""

from collections.abc import Mapping

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.reference import Reference

DOCKER_CONFIG = ".dockerconfigjson"


def config_of(secrets: Mapping[str, str], image: Reference) -> RegistryConfig:
    """The credentials in secrets; a bare username counts for the image's own registry only.

    Raises  InvalidInput, which names the keys that there may be, never what they hold
    """
    if DOCKER_CONFIG in secrets:
        return RegistryConfig.from_json(
            secrets[DOCKER_CONFIG].encode(), source=f"secret key {DOCKER_CONFIG}"
        )
    if "username" in secrets and "password" in secrets:
        return RegistryConfig.single(image.registry, secrets["username"], secrets["password"])
    if secrets:
        raise errors.InvalidInput(
            f"the volume's secret needs {DOCKER_CONFIG}, or username and password; it has "
            f"{', '.join(sorted(secrets))[:200]}"
        )
    return RegistryConfig.empty()
