"""The product in a real Kubernetes of two nodes: `make e2e`, and for a visitor `make kube-demo`.

The harness that makes such a cluster on this machine is `cluster/`. The tests run as well in the
cluster that KUBECONFIG names; what looks at nodes from inside is skipped there and says why:

    KUBECONFIG=... E2E_REGISTRY=kind-registry:5000 E2E_PUSH=localhost:5001 \\
        .venv/bin/python -m pytest -m cluster tests/e2e

A kind cluster needs two workers and its documentation's local registry (not tried).
"""
