"""The product in a real Kubernetes of two nodes: `make e2e`, and for a visitor `make kube-demo`.

The harness that makes such a cluster on this machine is `cluster/`. The tests run as well in the
cluster that KUBECONFIG names: `KUBECONFIG=... E2E_REGISTRY=... pytest -m cluster tests/e2e`
(`kubernetes.py` says what it must have); what looks at nodes from inside is skipped there.
"""
