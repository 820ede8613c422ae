"""What to do about a registry that refuses: an error in, one with the way out of it.

A text that says whose credentials were shown, and which setting gives others; never what they
are.
"""

from collections.abc import Collection

from clipfs import errors
from csi.cluster.errors import ApiUnavailable
from csi.credentials.pull_secrets import PULL_SECRETS, may_ask
from csi.credentials.sources import GIVEN_SECRET, NOBODY, Chosen
from csi.pod import Pod
from csi.volume import Volume

_HIDES = (errors.Unauthenticated, errors.AccessDenied, errors.ImageNotFound)
"""What a registry says of a private image to who shows nothing."""

_REMEDIES: dict[type[errors.ClipError], str] = {
    errors.Unauthenticated: "correct them there, or let that account pull",
    errors.AccessDenied: "let that account pull, or give the volume another",
}


def with_advice(
    error: errors.ClipError, volume: Volume, chosen: Chosen, *, namespaces: Collection[str]
) -> errors.ClipError:
    """error, of a question that was asked with chosen; itself unless the registry refused.

    A retry may help if chosen is nobody's because a source was away: ApiUnavailable.

    namespaces  whose pods' imagePullSecrets are read
    """
    if chosen.unasked is not None and isinstance(error, _HIDES):
        return ApiUnavailable(
            f"{error}; it was asked without credentials, as those that the pod may have cannot be "
            f"looked up now ({chosen.unasked}); the kubelet tries again by itself"
        )
    if type(error) not in _REMEDIES:
        return error
    kind, failed = type(error), "".join(f"; {one}" for one in chosen.failed)
    if chosen.source == NOBODY:
        way_out = _way_out(volume, namespaces)
        if not chosen.failed:
            return kind(f"{error}: no credentials: {way_out}")
        why = "; ".join(chosen.failed)
        return kind(f"{error}: no credentials that can be used: {why}; correct that, or {way_out}")
    remedy = f"{chosen.source}: {_REMEDIES[kind]}"
    pod, is_earlier = volume.pod, chosen.source in (GIVEN_SECRET, PULL_SECRETS)
    if pod is not None and not is_earlier and not may_ask(pod, namespaces):
        remedy += f", or {_opening(pod)}"
    return kind(f"{error}; the credentials came from {remedy}{failed}")


def _way_out(volume: Volume, namespaces: Collection[str]) -> str:
    secret = "give the volume a nodePublishSecretRef"
    if volume.pod is None:
        return secret
    if may_ask(volume.pod, namespaces):
        registry = volume.image.registry
        return f"{secret}, or the pod or its service account an imagePullSecret for {registry}"
    return f"{secret}, or {_opening(volume.pod)}"


def _opening(pod: Pod) -> str:
    return (
        f"let the driver read the pod's imagePullSecrets by adding its namespace {pod.namespace} "
        "to podPullSecrets.namespaces"
    )
