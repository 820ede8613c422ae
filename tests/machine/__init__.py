"""End to end on one machine, without Kubernetes: the installed commands, a registry, real mounts.

In a cluster: `tests/e2e`.
"""
