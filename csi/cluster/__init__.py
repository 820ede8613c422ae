"""The edge to the Kubernetes API, and what is read there: pull secrets, the node's own objects.

Border: only here does the driver speak to the API server, each call bounded in time. Nothing is
loaded, and nothing asked, where no cluster was given. What people see is `csi.status`'s.
"""
