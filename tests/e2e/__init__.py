"""The product in a real Kubernetes of two nodes; run by `make e2e`, and shown by `make kube-demo`.

The scripts that make the cluster are not here: `CLUSTER_SCRIPTS` names their folder.
"""
