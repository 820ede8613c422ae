"""A real API server with `manifests/clip-csi.yaml` in it, and the driver as that binds it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from csi.cluster.api import Cluster
from csi.cluster.opening import open_cluster
from tests.support.apiserver import ApiServer, manifest, run_apiserver


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The tests share it, each with namespaces of its own."""
    with run_apiserver(tmp_path_factory.mktemp("apiserver") / "home") as server:
        server.kubectl("apply", "-f", manifest("clip-csi.yaml"))
        server.kubectl("wait", "crd/clipmounts.clipfs.dev", "--for=condition=Established")
        yield server


@pytest.fixture(scope="session")
def driver_config(api_server: ApiServer) -> Path:
    """The kubeconfig of the node plugin's service account, with a token as its pods get one."""
    token = api_server.home / "driver-token"
    token.write_text(api_server.token_of("clip", "clip-node"))
    return api_server.kubeconfig("driver", token_file=token)


@pytest.fixture
def cluster(driver_config: Path) -> Cluster:
    """The API as the driver has it."""
    opened = open_cluster(driver_config)
    assert opened is not None
    return opened
