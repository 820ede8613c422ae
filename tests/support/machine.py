"""What a test asks of this machine: the installed commands, root and /dev/fuse."""

import os
import sys
from pathlib import Path

import pytest

CLIPFS = str(Path(sys.executable).with_name("clipfs"))
CLIP_CSI = str(Path(sys.executable).with_name("clip-csi"))

needs_fuse = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse"
)
