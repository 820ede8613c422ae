"""What the options of `clip-csi node` come to: checked, and with their defaults.

Not here: the options (`csi.main`, and `options.py` of each package).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clipfs import errors
from clipfs.cache.limits import Limits
from clipfs.cli.limits import limits_of, words_of
from clipfs.cli.settings import chosen_platform, tier_settings
from clipfs.mount.syscalls import check_context
from clipfs.tiers.settings import TierSettings
from csi.access.policy import Policy, load_policy
from csi.cluster.taint import StartupTaint
from csi.credentials.options import providers_of
from csi.credentials.order import CredentialSettings
from csi.metrics.options import Address, address_of
from csi.volume import VolumeRules

_NAME = re.compile(r"[A-Za-z0-9](?:[-.A-Za-z0-9]{0,61}[A-Za-z0-9])?")  # CSI: GetPluginInfo

MAX_NODE_ID_BYTES = 256
"""CSI specification, NodeGetInfoResponse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSettings:
    """What the administrator decided.

    registration_dir              None: the driver does not register itself
    registration_endpoint         the CSI socket as the kubelet sees it
    image_options, mount_options  of every command with an image, and of `clipfs mount` alone
    access_grace_s, policy        as of `Access`
    metrics                       where they are served; None: no port is opened
    kubeconfig, startup_taint     as of `open_cluster`; the taint, if there is one
    """

    endpoint: Path
    node_id: str
    rules: VolumeRules
    driver_name: str
    registration_dir: Path | None
    registration_endpoint: str
    version: str
    tiers: TierSettings
    image_options: Sequence[str]
    mount_options: Sequence[str]
    limits: Limits
    credentials: CredentialSettings
    access_grace_s: float
    policy: Policy | None
    metrics: Address | None
    kubeconfig: Path | None
    startup_taint: StartupTaint | None


def driver_settings(given: Mapping[str, Any], *, logs: Mapping[str, str]) -> DriverSettings:
    """InvalidInput names the option that cannot be.

    given  the options of `clip-csi node`, by their names; logs: those of its log
    """
    check_context(given["mount_context"])
    _check_names(given["driver_name"], given["node_id"])
    bin_dir = given["image_credential_provider_bin_dir"]
    endpoint = _socket_path(given["endpoint"])
    return DriverSettings(
        endpoint=endpoint,
        node_id=given["node_id"],
        rules=VolumeRules(
            kubelet_root=given["kubelet_root"].resolve(),
            platform=chosen_platform(given["platform"]),
            front=given["front"],
            token_requests=given["token_requests"],
        ),
        driver_name=given["driver_name"],
        registration_dir=given["registration_dir"],
        registration_endpoint=given["registration_endpoint"] or str(endpoint),
        version=version("clip-csi"),
        tiers=tier_settings(**given),
        image_options=image_options(given, logs),
        mount_options=mount_options(given),
        limits=limits_of(given["max_bytes"], given["min_free"]),
        credentials=CredentialSettings(
            namespaces=given["pod_pull_secrets"],
            providers=providers_of(given["image_credential_provider_config"], bin_dir),
            bin_dir=bin_dir,
            registry_config=given["registry_config"],
        ),
        access_grace_s=given["access_grace_s"],
        policy=load_policy(given["policy_file"]) if given["policy_file"] else None,
        metrics=address_of(given["metrics"]) if given["metrics"] is not None else None,
        kubeconfig=given["kubeconfig"],
        startup_taint=given["startup_taint"],
    )


def image_options(given: Mapping[str, Any], logs: Mapping[str, str]) -> list[str]:
    """The words that every `clipfs` with an image gets, the same as the driver's own."""
    words = ["--root", str(given["root"].absolute())]
    for url in given["content_cache"]:
        words += ["--content-cache", url]
    for name in ("content_cache_token_file", "index_key_file", "ca_file", "mirrors"):
        if given[name] is not None:
            words += ["--" + name.replace("_", "-"), str(given[name].absolute())]
    for host in given["plain_http"]:
        words += ["--plain-http", host]
    for name, value in logs.items():
        words += ["--" + name.replace("_", "-"), value]
    return words


def mount_options(given: Mapping[str, Any]) -> list[str]:
    """The words that `clipfs mount` gets beside those."""
    words = ["--background-fill", given["background_fill"]]
    if given["mount_context"] is not None:
        words += ["--mount-context", given["mount_context"]]
    return words + words_of(given["max_bytes"], given["min_free"])


def _check_names(driver_name: str, node_id: str) -> None:
    if not _NAME.fullmatch(driver_name):
        raise errors.InvalidInput(
            f"--driver-name {driver_name[:100]!r}: letters, digits, dashes and dots, at most 63"
        )
    if not 0 < len(node_id.encode()) <= MAX_NODE_ID_BYTES:
        raise errors.InvalidInput(f"--node-id: 1 to {MAX_NODE_ID_BYTES} bytes, the node's name")


def _socket_path(endpoint: str) -> Path:
    parts = urlsplit(endpoint)
    if parts.scheme != "unix" or parts.netloc or not parts.path.startswith("/"):
        raise errors.InvalidInput(f"--endpoint {endpoint}: write unix:///absolute/path")
    return Path(parts.path)
