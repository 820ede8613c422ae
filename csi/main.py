"""The command `clip-csi`: options in, the driver's process up.

`clip-csi node` is the node plugin. As PID 1 of a container it runs below a tiny supervisor.
"""

import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from clipfs import errors
from clipfs.cli import logs, options
from clipfs.cli.limits import limit_options, limits_of, words_of
from clipfs.cli.main import ended
from clipfs.cli.settings import chosen_platform, tier_settings
from clipfs.mount.syscalls import check_context
from csi.access.options import access_options
from csi.cluster.options import cluster_options
from csi.credentials.options import credential_options
from csi.init import supervise
from csi.metrics.options import address_of, metrics_option

DRIVER_NAME = "csi.clipfs.dev"
_NAME = re.compile(r"[A-Za-z0-9](?:[-.A-Za-z0-9]{0,61}[A-Za-z0-9])?")  # CSI: GetPluginInfo

MAX_NODE_ID_BYTES = 256
"""CSI specification, NodeGetInfoResponse."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="clip-csi", prog_name="clip-csi")
def clip_csi() -> None:
    """OCI images as Kubernetes volumes: the CSI driver."""


@clip_csi.command()
@click.option("--endpoint", metavar="unix:///PATH", required=True, help="The CSI socket.")
@click.option("--node-id", required=True, help="This node's name in the cluster.")
@click.option(
    "--kubelet-root",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The kubelet's folder; volumes are published below it only.",
)
@click.option("--driver-name", default=DRIVER_NAME, show_default=True)
@click.option(
    "--registration-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The kubelet's plugins_registry; absent: the driver does not register itself.",
)
@click.option(
    "--registration-endpoint",
    metavar="PATH",
    help="The CSI socket as the kubelet sees it.  [default: the endpoint's path]",
)
@metrics_option
@options.root_option
@options.image_options
@options.front_option
@options.background_fill_option
@limit_options
@credential_options
@access_options
@cluster_options
@options.log_options
@click.pass_context
def node(context: click.Context, /, **given: Any) -> None:
    """Serve the CSI node plugin until SIGTERM; volumes stay."""
    if os.getpid() == 1:
        supervise(as_json=context.meta["clipfs.logs"]["log_format"] == "json")
    from csi.access.policy import load_policy
    from csi.credentials.options import providers_of
    from csi.credentials.order import CredentialSettings
    from csi.driver import drive
    from csi.volume import VolumeRules

    check_context(given["mount_context"])
    _check_names(given["driver_name"], given["node_id"])
    bin_dir = given["image_credential_provider_bin_dir"]
    drive(
        endpoint=_socket_path(given["endpoint"]),
        node_id=given["node_id"],
        rules=VolumeRules(
            kubelet_root=given["kubelet_root"].resolve(),
            platform=chosen_platform(given["platform"]),
            front=given["front"],
            token_requests=given["token_requests"],
        ),
        driver_name=given["driver_name"],
        registration_dir=given["registration_dir"],
        registration_endpoint=given["registration_endpoint"],
        version=version("clip-csi"),
        settings=tier_settings(**given),
        image_options=_image_options(context, given),
        mount_options=_mount_options(given),
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


def _image_options(context: click.Context, given: dict[str, Any]) -> list[str]:
    """The words that every `clipfs` with an image gets, the same as the driver's own."""
    words = ["--root", str(given["root"].absolute())]
    for url in given["content_cache"]:
        words += ["--content-cache", url]
    for name in ("content_cache_token_file", "index_key_file", "ca_file", "mirrors"):
        if given[name] is not None:
            words += ["--" + name.replace("_", "-"), str(given[name].absolute())]
    for host in given["plain_http"]:
        words += ["--plain-http", host]
    chosen = context.meta.get("clipfs.logs", {})
    for name, value in chosen.items():
        words += ["--" + name.replace("_", "-"), value]
    return words


def _mount_options(given: dict[str, Any]) -> list[str]:
    """The words that `clipfs mount` gets beside those."""
    words = ["--background-fill", given["background_fill"]]
    if given["mount_context"] is not None:
        words += ["--mount-context", given["mount_context"]]
    return words + words_of(given["max_bytes"], given["min_free"])


def run(arguments: Sequence[str] | None = None) -> None:
    """The console script; never returns."""
    logs.configure("text", "info")
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(
        ended(
            lambda: clip_csi.main(words, "clip-csi", standalone_mode=False),
            words,
            program="clip-csi",
        )
    )


if __name__ == "__main__":
    run()
