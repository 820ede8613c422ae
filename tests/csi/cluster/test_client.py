"""The API edge: how it signs in, and how it fails."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException

from clipfs.errors import InvalidInput
from csi.cluster.api import Cluster
from csi.cluster.client import ClusterClient
from csi.cluster.errors import ApiRefused, ApiUnavailable
from csi.cluster.opening import open_cluster
from tests.support.apiserver import ApiServer, needs_apiserver
from tests.support.web import Reply, run_web

CONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: u, user: {{token: hush}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
current-context: c
"""


def test_without_a_cluster_nothing_is_opened_and_the_client_is_not_loaded(tmp_path: Path) -> None:
    program = (
        "import sys, csi.main, csi.driver; from csi.cluster.opening import open_cluster; "
        "assert open_cluster(None, environ={}) is None; "
        "sys.exit('kubernetes' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
    in_cluster = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert open_cluster(None, mounted=tmp_path, environ=in_cluster) is None, "no token"


@pytest.mark.parametrize("server", ["ftp://h.example", "h.example:6443", "https//h", "''"])
def test_a_kubeconfig_whose_server_is_no_url_of_http_is_refused(
    server: str, tmp_path: Path
) -> None:
    path = tmp_path / "config"
    path.write_text(
        "{current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}],\n"
        f"clusters: [{{name: k, cluster: {{server: {server}}}}}],\n"
        "users: [{name: u, user: {token: hush}}]}\n"
    )
    with pytest.raises(InvalidInput, match="config: its server is no https:// or http:// URL"):
        open_cluster(path)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="absent"),
        pytest.param("", id="empty"),
        pytest.param("users: [{name: u, user: {token: hush}}]\n", id="no-context"),
        pytest.param("token: hush\n\t: {", id="no-yaml"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named_and_not_shown(
    text: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidInput) as refusal:
        open_cluster(path)
    assert str(path) in str(refusal.value)
    assert "hush" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    (tmp_path / "config").write_text(CONFIG.format(port=port))
    cluster = open_cluster(tmp_path / "config")
    assert cluster is not None
    with pytest.raises(ApiUnavailable) as refusal:
        cluster.csi_node("n1")
    assert "hush" not in str(refusal.value)


def test_a_server_that_never_answers_is_given_up_and_not_asked_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csi.cluster.client.TIMEOUT_S", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "config").write_text(CONFIG.format(port=silent.getsockname()[1]))
        cluster = open_cluster(tmp_path / "config")
        assert cluster is not None
        with pytest.raises(ApiUnavailable):
            cluster.csi_node("n1")
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_an_answer_that_is_none_of_the_api_s_is_unavailable(tmp_path: Path) -> None:
    """Some proxy's, in the API server's stead."""
    with run_web(lambda asked: Reply(body=b"<html>please log in</html>")) as server:
        (tmp_path / "config").write_text(CONFIG.format(port=server.address.rpartition(":")[2]))
        cluster = open_cluster(tmp_path / "config")
        assert cluster is not None
        with pytest.raises(ApiUnavailable, match="no JSON"):
            cluster.csi_node("n1")


def test_a_token_that_is_being_written_is_unavailable(tmp_path: Path) -> None:
    """Its file is empty for a moment; the library reads it when the last one is a minute old."""

    def empty(configuration: Configuration) -> None:
        raise ConfigException("Token file exists but empty.")

    configuration = Configuration(host="http://127.0.0.1:1")
    configuration.api_key["BearerToken"] = "bearer hush"
    configuration.refresh_api_key_hook = empty  # type: ignore[assignment] # its hints say None
    with pytest.raises(ApiUnavailable, match="empty"):
        ClusterClient(lambda: ApiClient(configuration)).csi_node("n1")


@needs_apiserver
def test_a_token_that_is_replaced_is_read_again(api_server: ApiServer) -> None:
    token = api_server.home / "rotating"
    token.write_text("no such token")
    cluster = open_cluster(api_server.kubeconfig("rotating", token_file=token))
    assert cluster is not None
    with pytest.raises(ApiRefused, match="401"):
        cluster.clip_mount("default", "none")
    token.write_text(api_server.token_of("clip", "clip-node"))
    assert cluster.clip_mount("default", "none") is None


@needs_apiserver
def test_a_pod_s_own_service_account_is_used(api_server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(api_server.token_of("clip", "clip-node"))
    (tmp_path / "ca.crt").write_bytes((api_server.home / "pki/apiserver.crt").read_bytes())
    environ = {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(api_server.port),
    }
    cluster = open_cluster(None, mounted=tmp_path, environ=environ)
    assert cluster is not None
    assert cluster.clip_mount("default", "none") is None
    with pytest.raises(ApiRefused, match="system:serviceaccount:clip:clip-node"):
        cluster.secret("default", "any")


@needs_apiserver
def test_the_driver_cannot_ask_for_a_token(cluster: Cluster) -> None:
    """There is no call for it; whatever call one writes is refused."""
    assert isinstance(cluster, ClusterClient)
    path = "/api/v1/namespaces/clip/serviceaccounts/clip-node/token"
    with pytest.raises(ApiRefused):
        cluster._ask("POST", path, {"spec": {}})
