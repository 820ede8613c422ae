"""What engine and worker tell each other."""

import struct
from typing import NamedTuple

COUNTS = struct.Struct("4Q")
FOUND = 77
"""Exit status of a run that was to stop at its first finding, and did."""


class Job(NamedTuple):
    """Paths as text. change  module, old, new of a planted defect"""

    target: str
    script: str
    counts: str
    findings: str
    stop_at_first: bool = False
    change: tuple[str, str, str] | None = None
