"""The options of `clip-csi node` that concern the cluster."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from clipfs.cli.options import FILE
from csi.cluster.taint import StartupTaint, parse_taint

F = TypeVar("F", bound=Callable[..., Any])


def _taint(text: str) -> StartupTaint:
    try:
        return parse_taint(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def cluster_options(command: F) -> F:
    """Adds `kubeconfig`, for `open_cluster`, and `startup_taint`, for `csi.cluster.taint`."""
    config = click.option(
        "--kubeconfig",
        type=FILE,
        metavar="F",
        help="The API server and who we are there.  [default: the pod's service account; neither: "
        "no events, no ClipMounts]",
    )
    taint = click.option(
        "--startup-taint",
        type=_taint,
        metavar="KEY[=VALUE][:EFFECT]",
        help="Taken off this node once its CSINode lists the driver; clipfs.dev/not-ready.",
    )
    return config(taint(command))
