"""The sources of a node, in the order in which they are asked, of what options and cluster give.

    nodePublishSecretRef, imagePullSecrets, credential providers, the node's docker config

Not here: the options (`options`); the API server (`csi.cluster`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clipfs import errors
from clipfs.image.mirrors import Mirrors
from csi.credentials.accounts import ServiceAccounts
from csi.credentials.node_config import NodeConfig
from csi.credentials.provider_config import ProviderConfig
from csi.credentials.providers import Providers
from csi.credentials.pull_secrets import PullSecrets, SecretReader
from csi.credentials.sources import GivenSecret, Source, Sources, hosts_by


class ClusterSecrets(SecretReader, ServiceAccounts, Protocol):
    """What sources ask of a cluster: `csi.cluster.pod_secrets.PodSecrets`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialSettings:
    """What the administrator decided.

    namespaces       whose pods' secrets may be read
    providers        in the folder bin_dir
    registry_config  the node's docker config; None: it has none
    """

    namespaces: Collection[str] = ()
    providers: Sequence[ProviderConfig] = ()
    bin_dir: Path | None = None
    registry_config: Path | None = None

    def sources(self, secrets: ClusterSecrets | None, mirrors: Mirrors) -> Sources:
        """secrets  None: there is no cluster to ask

        Raises  InvalidInput if secrets are to be read and there is no cluster
        """
        order: list[Source] = [GivenSecret()]
        if self.namespaces:
            if secrets is None:
                raise errors.InvalidInput(
                    "--pod-pull-secrets needs a cluster to ask: give --kubeconfig, or run in a pod"
                )
            order.append(PullSecrets(secrets, self.namespaces))
        if self.providers and self.bin_dir is not None:
            order.append(Providers(self.providers, self.bin_dir, accounts=secrets))
        if self.registry_config is not None:
            order.append(NodeConfig(self.registry_config))
        return Sources(order, hosts_of=hosts_by(mirrors))
