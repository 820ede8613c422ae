"""The Helm chart: what it renders, of which values, and what becomes of that in an API server.

Skipped, but for what only reads files, where there is no helm: it is taken from PATH or
from what `make cluster-programs` builds. The chart in a real cluster is the cluster tests'.
"""
