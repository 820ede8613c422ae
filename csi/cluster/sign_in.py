"""A client of the API server, with credentials as they are now; loaded with a cluster only.

Errors are the library's own, and it promises none: callers take any for "not usable", and show
none, since a parser's complaint may quote a token.
"""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from kubernetes.client import ApiClient, Configuration
from kubernetes.config.incluster_config import InClusterConfigLoader
from kubernetes.config.kube_config import load_kube_config

from clipfs import errors


def by_kubeconfig(path: Path) -> ApiClient:
    configuration = Configuration()
    load_kube_config(str(path), client_configuration=configuration, persist_config=False)
    if urlsplit(configuration.host).scheme not in ("http", "https"):
        raise errors.InvalidInput("its server is no https:// or http:// URL")
    return _client(configuration)


def by_service_account(mounted: Path, environ: Mapping[str, str]) -> ApiClient:
    """The token is read again every minute, as the kubelet replaces it."""
    configuration = Configuration()
    loader = InClusterConfigLoader(
        token_filename=str(mounted / "token"),
        cert_filename=str(mounted / "ca.crt"),
        environ=environ,
    )
    loader.load_and_set(configuration)
    return _client(configuration)


def _client(configuration: Configuration) -> ApiClient:
    configuration.retries = False  # each call is bounded; who wants it again asks again
    return ApiClient(configuration)
