"""A private image in a real cluster: whose credentials open it, and who is told what he lacks.

The kubelet brings a `nodePublishSecretRef`; imagePullSecrets the driver reads itself, in a
namespace that the administrator has allowed (`podPullSecrets.namespaces`).
"""

import base64
import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Pods
from tests.e2e.installation import PULL_SECRETS_OF
from tests.e2e.kubernetes import Cluster
from tests.e2e.objects import inline, pod
from tests.e2e.product import Product
from tests.e2e.registries import PASSWORD, PRIVATE, USER, Registries
from tests.e2e.sample import RandomImage, random_image
from tests.e2e.untold import assert_untold
from tests.support.apiserver import docker_config
from tests.support.wait import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NEIGHBOUR = "neighbour"
REFUSED = (
    "the registry wants credentials, or other ones (authentication required); there may also be no "
    "such repository: no credentials: give the volume a nodePublishSecretRef, or let the driver "
    "read the pod's imagePullSecrets by adding its namespace neighbour to podPullSecrets.namespaces"
)


@pytest.fixture
def private(tmp_path: Path) -> RandomImage:
    return random_image(tmp_path)


@pytest.fixture
def tenants(cluster: Cluster) -> None:
    """Two namespaces, each with the same pull secret; one is allowed."""
    for name in (PULL_SECRETS_OF, NEIGHBOUR):
        cluster.make_namespace(name)
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/dockerconfigjson",
                "metadata": {"name": "account", "namespace": name},
                "data": docker_config(PRIVATE, USER, PASSWORD),
            }
        )


def encoded_password() -> str:
    """As a docker config has it."""
    config = base64.b64decode(docker_config(PRIVATE, USER, PASSWORD)[".dockerconfigjson"])
    return str(json.loads(config)["auths"][PRIVATE]["auth"])


def test_a_private_image_opens_by_the_pods_own_credentials_and_by_no_neighbours(
    private: RandomImage,
    registries: Registries,
    product: Product,
    cluster: Cluster,
    pods: Pods,
    tenants: None,
) -> None:
    image = registries.push_private(private.layout, "private:1")
    secret = "account"
    pods.run(pod("by-ref", "n1", inline(image, secret=secret), namespace=NEIGHBOUR))
    pods.run(pod("by-pull", "n1", inline(image), namespace=PULL_SECRETS_OF, pull_secret=secret))
    for name, namespace in (("by-ref", NEIGHBOUR), ("by-pull", PULL_SECRETS_OF)):
        said = cluster.exec(name, "sha256sum", "/image/0/data", namespace=namespace)
        assert said.split()[0] == private.data[0]

    # every byte is on this node, and the pod has the secret: nobody allowed the driver to read it
    pods.make(pod("stranger", "n1", inline(image), namespace=NEIGHBOUR, pull_secret=secret))
    line = f"Warning ClipFailed {image}: {REFUSED}"
    wait_for(lambda: cluster.events("stranger", namespace=NEIGHBOUR) == [line])
    assert line.count(NEIGHBOUR) == 1
    assert_untold(product, [PASSWORD, encoded_password()], known="private:1")
