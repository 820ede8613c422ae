"""The sources of a node, in the order in which they are asked, of what options and cluster give.

    nodePublishSecretRef, imagePullSecrets, credential providers, the node's docker config

Not here: the options (`options`); the API server (`csi.kubernetes`).
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from clipfs import errors
from clipfs.image.mirrors import Mirrors
from csi.credentials.accounts import ServiceAccounts
from csi.credentials.node_config import NodeConfig
from csi.credentials.provider_config import ProviderConfig
from csi.credentials.providers import Providers
from csi.credentials.pull_secrets import PodSecrets, PullSecrets
from csi.credentials.sources import GivenSecret, Source, Sources, hosts_by


def sources_in_order(
    *,
    namespaces: Collection[str],
    secrets: PodSecrets | None,
    providers: Sequence[ProviderConfig],
    bin_dir: Path | None,
    accounts: ServiceAccounts | None,
    registry_config: Path | None,
    mirrors: Mirrors,
    key: bytes,
) -> Sources:
    """secrets, accounts  of the cluster; None: there is none to ask
    namespaces         whose pods' secrets may be read
    key                of proof hashes, as `Sources` has it

    Raises  InvalidInput if secrets are to be read and there is no cluster
    """
    order: list[Source] = [GivenSecret()]
    if namespaces:
        if secrets is None:
            raise errors.InvalidInput(
                "--pod-pull-secrets needs a cluster to ask: give --kubeconfig, or run in a pod"
            )
        order.append(PullSecrets(secrets, namespaces))
    if providers and bin_dir is not None:
        order.append(Providers(providers, bin_dir, accounts=accounts))
    if registry_config is not None:
        order.append(NodeConfig(registry_config))
    return Sources(order, hosts_of=hosts_by(mirrors), key=key)
