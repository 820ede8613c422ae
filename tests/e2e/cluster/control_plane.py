"""The control plane: registry, etcd, API server, controllers, scheduler, DNS; all on n0."""

from tests.e2e.cluster import pki
from tests.e2e.cluster.place import ADMIN, API, CONTROL, DOMAIN, REGISTRY, SERVICES, STATE
from tests.e2e.cluster.processes import inside, start, succeeds, until

ETCD = "http://127.0.0.1:12379"
ETCD_PEER = "http://127.0.0.1:12380"
REGISTRY_CONFIG = f"""\
version: 0.1
storage: {{filesystem: {{rootdirectory: {STATE}/registry}}}}
http: {{addr: "{REGISTRY}"}}
log: {{level: error}}
"""
AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: None, userGroups: ["system:serviceaccounts:kube-system"]}
  - {level: Metadata, userGroups: ["system:serviceaccounts"]}
"""
"""What is told of requests: whose, of the programs in pods, and what for; to `log/audit`."""

DNS_CONFIG = f""".:53 {{
 bind {API}
 errors
 kubernetes {DOMAIN} in-addr.arpa {{
  kubeconfig {ADMIN}
 }}
 cache 5
}}
"""


def start_all() -> None:
    """Return when the API server is ready; what follows it finds it by itself."""
    (STATE / "registry.yml").write_text(REGISTRY_CONFIG)
    (STATE / "Corefile").write_text(DNS_CONFIG)
    (STATE / "audit.yml").write_text(AUDIT_POLICY)
    _start("registry", "docker-registry", "serve", f"{STATE}/registry.yml")
    _start(
        "etcd",
        *("etcd", "--data-dir", f"{STATE}/etcd", "--unsafe-no-fsync"),
        *("--listen-client-urls", ETCD, "--advertise-client-urls", ETCD),
        *("--listen-peer-urls", ETCD_PEER, "--initial-advertise-peer-urls", ETCD_PEER),
        *("--initial-cluster", f"default={ETCD_PEER}"),
    )
    _start("apiserver", *_apiserver())
    until("the API server", is_ready, "etcd", "apiserver", "registry")
    _start(
        "controllers",
        *("kube-controller-manager", f"--kubeconfig={pki.kubeconfig('controllers')}"),
        *("--use-service-account-credentials", "--bind-address=127.0.0.1", "--leader-elect=false"),
        f"--service-account-private-key-file={pki.PKI}/sa.key",
        f"--root-ca-file={pki.PKI}/ca.crt",
        "--node-monitor-grace-period=20s",
    )
    _start(
        "scheduler",
        *("kube-scheduler", f"--kubeconfig={pki.kubeconfig('scheduler')}"),
        *("--bind-address=127.0.0.1", "--leader-elect=false"),
    )
    _start("coredns", "coredns", "-conf", f"{STATE}/Corefile")


def is_ready() -> bool:
    return ADMIN.exists() and succeeds(*inside(CONTROL), "kubectl", "get", "--raw", "/readyz")


def _apiserver() -> list[str]:
    keys = pki.PKI
    return [
        *("kube-apiserver", f"--etcd-servers={ETCD}", f"--bind-address={API}"),
        *(f"--advertise-address={API}", "--secure-port=6443"),
        *(f"--tls-cert-file={keys}/api.crt", f"--tls-private-key-file={keys}/api.key"),
        *(f"--token-auth-file={pki.TOKENS}", "--authorization-mode=Node,RBAC"),
        *("--enable-admission-plugins=NodeRestriction", "--allow-privileged=true"),
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys}/sa.key",
        f"--service-account-signing-key-file={keys}/sa.key",
        f"--service-cluster-ip-range={SERVICES}",
        *(f"--audit-policy-file={STATE}/audit.yml", f"--audit-log-path={STATE}/log/audit"),
    ]


def _start(name: str, *command: str) -> None:
    start(name, [*inside(CONTROL), *command])
