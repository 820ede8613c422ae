"""The command `clip-csi`: options in, the driver's process up.

`clip-csi node` is the node plugin. As PID 1 of a container it runs below a tiny supervisor.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from clipfs.cli import logs, options
from clipfs.cli.limits import limit_options
from clipfs.cli.main import ended
from csi.access.options import access_options
from csi.cluster.options import cluster_options
from csi.credentials.options import credential_options
from csi.init import supervise
from csi.metrics.options import metrics_option

DRIVER_NAME = "csi.clipfs.dev"


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
    from csi.driver import drive
    from csi.settings import driver_settings

    drive(driver_settings(given, logs=context.meta["clipfs.logs"]))


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
