"""A private image that a pod's service account opens, in a real cluster.

The chart's CSIDriver has the kubelet bring a token for the registry's audience; the driver gives it
to a credential-provider plugin, which trades it where the API server is asked whose it is.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Pods
from tests.e2e.identities import AUDIENCE, Identities, running_identities
from tests.e2e.installation import SUITE, Installation
from tests.e2e.kubernetes import Cluster
from tests.e2e.objects import inline, pod
from tests.e2e.product import Product
from tests.e2e.sample import RandomImage, random_image
from tests.e2e.untold import assert_untold
from tests.support.helm import merged

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ACCOUNT = "puller"
TEAM, STRANGERS = "team", "strangers"
TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"
REFUSED = (
    "the registry wants credentials, or other ones (authentication required); there may also be no "
    "such repository; the credentials came from credential providers: correct them there, or let "
    "that account pull, or let the driver read the pod's imagePullSecrets by adding its namespace "
    "strangers to podPullSecrets.namespaces"
)


@pytest.fixture
def identities(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Identities]:
    with running_identities(cluster, tmp_path_factory.mktemp("identities")) as found:
        for namespace in (TEAM, STRANGERS):
            cluster.make_namespace(namespace)
            metadata = {"name": ACCOUNT, "namespace": namespace}
            cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        found.may[f"system.serviceaccount.{TEAM}.{ACCOUNT}"] = "team/"
        yield found


@pytest.fixture
def product(installed: Installation, identities: Identities) -> Product:
    return installed.need(merged(SUITE, identities.values))


@pytest.fixture
def private(tmp_path: Path) -> RandomImage:
    return random_image(tmp_path)


def by_account(name: str, image: str, namespace: str, **attributes: str) -> dict[str, Any]:
    """A pod of the namespace's ACCOUNT, on n1."""
    made = pod(name, "n1", inline(image, **attributes), namespace=namespace)
    made["spec"]["serviceAccountName"] = ACCOUNT
    return made


def stolen(cluster: Cluster) -> str:
    """A token of the team's account as the volume attribute in which the kubelet brings one."""
    words = ("create", "token", "-n", TEAM, ACCOUNT, f"--audience={AUDIENCE}")
    token = cluster.kubectl(*words).strip()
    until = "2100-01-01T00:00:00Z"
    return json.dumps({AUDIENCE: {"token": token, "expirationTimestamp": until}})


def test_a_service_account_opens_what_it_may_pull_and_its_neighbours_nothing(
    private: RandomImage, identities: Identities, product: Product, cluster: Cluster, pods: Pods
) -> None:
    image = identities.push(private.layout, "team/app:1")
    pods.run(by_account("of-team", image, TEAM))
    assert (
        cluster.exec("of-team", "sha256sum", "/image/0/data", namespace=TEAM).split()[0]
        == (private.data[0])
    )
    (found,) = (one for one in cluster.objects("pod", namespace=TEAM))
    assert {(one.user, one.audiences, one.pod_uid) for one in identities.reviews} == {
        (f"system:serviceaccount:{TEAM}:{ACCOUNT}", (AUDIENCE,), found["metadata"]["uid"])
    }

    # every byte is on this node, and the second one brings a token that would open it
    pods.make(
        by_account("stranger", image, STRANGERS),
        by_account("thief", image, STRANGERS, **{TOKENS: stolen(cluster)}),
    )
    for name in ("stranger", "thief"):
        line = re.escape(f"Warning ClipFailed {image}: {REFUSED}")
        cluster.wait_event(line, name, namespace=STRANGERS)
    accounts = {one.user for one in identities.reviews}
    assert accounts == {f"system:serviceaccount:{where}:{ACCOUNT}" for where in (TEAM, STRANGERS)}
    assert_untold(product, identities.secrets(), known="team/app:1")
