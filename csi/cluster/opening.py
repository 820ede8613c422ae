"""Where the API server is and who we are there: `--kubeconfig`, else the pod's own service account.

With neither there is no cluster, and nothing of the `kubernetes` client (35 MB) is loaded.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from clipfs import errors
from csi.cluster.api import Cluster

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet mounts the pod's token and the cluster's CA."""


def open_cluster(
    kubeconfig: Path | None,
    *,
    mounted: Path = SERVICE_ACCOUNT,
    environ: Mapping[str, str] = os.environ,
) -> Cluster | None:
    """Asks nothing yet: an API server that is down is no reason not to start.

    Raises  InvalidInput, which never shows what a file holds
    """
    if kubeconfig is None and not _is_in_cluster(mounted, environ):
        return None
    from csi.cluster.client import ClusterClient
    from csi.cluster.sign_in import by_kubeconfig, by_service_account

    try:
        if kubeconfig is not None:
            return ClusterClient(lambda: by_kubeconfig(kubeconfig))
        return ClusterClient(lambda: by_service_account(mounted, environ))
    except errors.InvalidInput as error:
        raise errors.InvalidInput(f"--kubeconfig {kubeconfig}: {error}") from None
    except Exception as error:
        where = f"--kubeconfig {kubeconfig}" if kubeconfig else f"the service account in {mounted}"
        raise errors.InvalidInput(
            f"{where} cannot be used ({type(error).__name__}): it must be there, readable and whole"
        ) from None


def _is_in_cluster(mounted: Path, environ: Mapping[str, str]) -> bool:
    """Whether this is a pod that was given its service account's token."""
    return bool(environ.get("KUBERNETES_SERVICE_HOST")) and (mounted / "token").exists()
