"""The driver's options for where credentials come from, and the sources that they make.

Not here: `--registry-config`, which `clipfs mount` has too (`clipfs.cli.options`).
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from clipfs import errors
from csi.credentials.provider_config import ProviderConfig, load_providers
from csi.credentials.pull_secrets import EVERY_NAMESPACE

F = TypeVar("F", bound=Callable[..., Any])


def credential_options(command: F) -> F:
    """Adds image_credential_provider_config, image_credential_provider_bin_dir,
    pod_pull_secrets and token_requests."""
    for decorate in (_token_requests, _bin_dir, _provider_config, _pod_pull_secrets):
        command = decorate(command)
    return command


_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


def _namespace(text: str) -> str:
    if text != EVERY_NAMESPACE and _NAMESPACE.fullmatch(text) is None:
        raise click.BadParameter(
            f"{text[:100]!r} is no namespace; write one name (a to z, digits, dashes), the option "
            "again for another, '*' for all"
        )
    return text


_pod_pull_secrets = click.option(
    "--pod-pull-secrets",
    type=_namespace,
    metavar="NAMESPACE",
    multiple=True,
    help="A namespace whose pods' imagePullSecrets, and their service accounts', the driver may "
    "read; repeatable, '*' is all. None: nobody's.",
)
_provider_config = click.option(
    "--image-credential-provider-config",
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="The kubelet's CredentialProviderConfig, a file or a folder of them: plugins that know "
    "registries' credentials.",
)
_bin_dir = click.option(
    "--image-credential-provider-bin-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where those plugins' programs are.",
)
_token_requests = click.option(
    "--token-requests",
    is_flag=True,
    help="The CSIDriver object sets tokenRequests: service-account tokens in a publish are the "
    "kubelet's word. Without it they are ignored, since a pod's author could have written them.",
)


def providers_of(config: Path | None, folder: Path | None) -> tuple[ProviderConfig, ...]:
    """The plugins that the two options name; InvalidInput if one is given without the other."""
    if config is None and folder is None:
        return ()
    if config is None or folder is None:
        raise errors.InvalidInput(
            "--image-credential-provider-config and --image-credential-provider-bin-dir are given "
            "together"
        )
    return load_providers(config, folder)
