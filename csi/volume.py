"""A publish request becomes a volume that can be made, or an InvalidInput that says why not.

Pure, but for the symbolic links above a target. Attributes are the pod author's; nothing that
an administrator must decide is among them.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.platform import Platform, parse_platform
from clipfs.image.reference import DEFAULT_TAG, Reference, parse_reference
from csi.credentials.given import ServiceAccountToken, config_of, tokens_of
from csi.pod import KUBELET_PREFIX, Pod, pod_of
from csi.proto import csi_pb2 as pb

PullPolicy = Literal["IfNotPresent", "Always", "Never"]
ATTRIBUTES = ("image", "pullPolicy", "platform", "front")
MAX_PATH_BYTES = 4095
"""PATH_MAX of limits.h, less its final NUL."""

MAX_NAME_BYTES = 255
"""NAME_MAX of limits.h: one component of a path."""

FRONTS = ("auto", "erofs", "fuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRules:
    """What the administrator decided: where volumes may be, and what holds if one is silent.

    token_requests  the CSIDriver sets tokenRequests, so that tokens are the kubelet's word
    """

    kubelet_root: Path
    platform: Platform
    front: str
    token_requests: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """What a pod asks for.

    attributes   as the pod gave them, without the kubelet's own: two publishes are the same
                 if these are
    pod          None if nobody said
    credentials  in its own secret, nodePublishSecretRef
    secret_fault why that cannot be read; empty if it can, or if there is none
    tokens       of its service account, by audience
    """

    volume_id: str
    target: Path
    image: Reference
    pull_policy: PullPolicy
    platform: Platform
    front: str
    attributes: Mapping[str, str]
    pod: Pod | None
    credentials: RegistryConfig = field(repr=False)
    secret_fault: str = ""
    tokens: Mapping[str, ServiceAccountToken] = field(default_factory=dict)


def name_of(target: Path) -> str:
    """What the driver calls the volume at target: several may have one volume id."""
    return hashlib.sha256(os.fsencode(target)).hexdigest()[:32]


def parse_publish(request: pb.NodePublishVolumeRequest, rules: VolumeRules) -> Volume:
    """The volume that request describes; InvalidInput names the field or attribute."""
    volume_id = parse_volume_id(request.volume_id)
    target = parse_target(request.target_path, rules.kubelet_root)
    if not request.HasField("volume_capability"):
        raise errors.InvalidInput("volume capability is missing")
    if request.volume_capability.HasField("block"):
        raise errors.InvalidInput("block volumes are not supported: an image is a file system")
    context = dict(request.volume_context)
    attributes = {k: v for k, v in context.items() if not k.startswith(KUBELET_PREFIX)}
    unknown = sorted(set(attributes) - set(ATTRIBUTES))
    if unknown:
        raise errors.InvalidInput(
            f"unknown volume attribute {unknown[0][:100]!r}; known are: {', '.join(ATTRIBUTES)}"
        )
    if not attributes.get("image"):
        raise errors.InvalidInput("volume attribute image is missing: the image's reference")
    image = parse_reference(attributes["image"])
    platform = attributes.get("platform")
    credentials, secret_fault = _secret(request.secrets, image)
    return Volume(
        volume_id=volume_id,
        target=target,
        image=image,
        pull_policy=_pull_policy(attributes.get("pullPolicy") or _default_policy(image)),
        platform=parse_platform(platform) if platform else rules.platform,
        front=_front(attributes.get("front") or rules.front),
        attributes=attributes,
        pod=pod_of(context),
        credentials=credentials,
        secret_fault=secret_fault,
        tokens=tokens_of(context, request.secrets) if rules.token_requests else {},
    )


def parse_volume_id(text: str) -> str:
    """InvalidInput if it is missing; whatever else it is, is the caller's affair."""
    if not text:
        raise errors.InvalidInput("volume id is missing")
    return text


def parse_target(text: str, kubelet_root: Path) -> Path:
    """Where a volume goes; it must lie below the kubelet's own folder, which is a real path."""
    if not text:
        raise errors.InvalidInput("target path is missing")
    path = real_place(text)
    if kubelet_root not in path.parents:
        raise errors.InvalidInput(f"target path {text} is not below --kubelet-root {kubelet_root}")
    return path


def real_place(text: str) -> Path:
    """The path by which mountinfo names a mount at text: symbolic links above it followed.

    The place itself is never looked at: it may be a dead mount.
    """
    raw = os.fsencode(text)
    longest = max(len(name) for name in raw.split(b"/"))
    if b"\0" in raw or len(raw) > MAX_PATH_BYTES or longest > MAX_NAME_BYTES:
        raise errors.InvalidInput(f"target path {text[:100]!r}...: no file can have this name")
    folder, name = os.path.split(os.path.normpath(text))
    return Path(os.path.realpath(folder), name)


def _secret(secrets: Mapping[str, str], image: Reference) -> tuple[RegistryConfig, str]:
    """What a volume's secret holds, or why that cannot be read.

    It is told when it is asked for: of a volume that is there, it is no reason to fail.
    """
    try:
        return config_of(secrets, image), ""
    except errors.InvalidInput as error:
        return RegistryConfig.empty(), str(error)


def _default_policy(image: Reference) -> PullPolicy:
    """As Kubernetes has it for containers: only `latest` is expected to move."""
    is_latest = image.digest is None and image.version == DEFAULT_TAG
    return "Always" if is_latest else "IfNotPresent"


def _pull_policy(text: str) -> PullPolicy:
    if text not in get_args(PullPolicy):
        raise errors.InvalidInput(
            f"volume attribute pullPolicy {text[:100]!r}: say {', '.join(get_args(PullPolicy))}"
        )
    return cast("PullPolicy", text)


def _front(text: str) -> str:
    if text not in FRONTS:
        raise errors.InvalidInput(f"volume attribute front {text[:100]!r}: say {', '.join(FRONTS)}")
    return text
