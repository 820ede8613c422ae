"""`manifests/examples`: a real API server takes each as it is; the cluster's tests run some."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apiserver import ApiServer, manifest, needs_apiserver

pytestmark = needs_apiserver

EXAMPLES = sorted(Path(manifest("examples")).glob("*.yaml"))
NAMESPACE = "examples"


@pytest.fixture(scope="module")
def namespace(api_server: ApiServer) -> Iterator[str]:
    """One in which pods can be made."""
    api_server.kubectl("create", "namespace", NAMESPACE)
    api_server.kubectl("create", "serviceaccount", "default", "-n", NAMESPACE)
    yield NAMESPACE
    api_server.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_api_server_takes_it_without_a_warning(
    path: Path, namespace: str, api_server: ApiServer
) -> None:
    words = ("apply", "-n", namespace, "--dry-run=server", "--validate=strict", "-f", str(path))
    said = api_server.kubectl(*words, check=False).splitlines()
    assert said
    assert [line for line in said if not line.endswith("(server dry run)")] == []
