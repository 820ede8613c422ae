"""What to do about a registry that refuses: an error in, one with the way out of it.

A text that says whose credentials were shown, and which setting gives others; never what they
are.
"""

from collections.abc import Collection

from clipfs import errors
from csi.credentials.pull_secrets import may_ask
from csi.credentials.sources import NOBODY, Chosen
from csi.volume import Volume

_REMEDIES: dict[type[errors.ClipError], str] = {
    errors.Unauthenticated: "correct them there, or let that account pull",
    errors.AccessDenied: "let that account pull, or give the volume another",
}


def with_advice(
    error: errors.ClipError, volume: Volume, chosen: Chosen, *, namespaces: Collection[str]
) -> errors.ClipError:
    """error, of a question that was asked with chosen; itself unless the registry refused.

    namespaces  whose pods' imagePullSecrets are read
    """
    if type(error) not in _REMEDIES:
        return error
    kind, failed = type(error), "".join(f"; {one}" for one in chosen.failed)
    if chosen.source != NOBODY:
        return kind(
            f"{error}; the credentials came from {chosen.source}: {_REMEDIES[kind]}{failed}"
        )
    return kind(f"{error}: no credentials: {_way_out(volume, namespaces)}{failed}")


def _way_out(volume: Volume, namespaces: Collection[str]) -> str:
    secret = "give the volume a nodePublishSecretRef"
    if volume.pod is None:
        return secret
    registry = volume.image.registry
    if may_ask(volume.pod, namespaces):
        return f"{secret}, or the pod or its service account an imagePullSecret for {registry}"
    return (
        f"{secret}, or let the driver read the pod's imagePullSecrets by adding its namespace "
        f"{volume.pod.namespace} to podPullSecrets.namespaces"
    )
