"""Where Kubernetes' own programs are on this machine: `make cluster-programs` builds them, once."""

import os
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clip-csi/cluster"
BIN = Path(os.environ.get("CLUSTER_BIN") or CACHE / "bin")


def missing(*names: str) -> list[str]:
    """Those that are not there."""
    return [name for name in names if not (BIN / name).exists()]
