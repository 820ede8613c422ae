"""Run every benchmark and print its tables; exit code 1 if a bar is missed."""

import sys

from bench import (
    cluster,
    content_client,
    content_server,
    ranges,
    read_ahead,
    second_node,
    start,
    tier2_faults,
)

PARTS = (
    ranges,
    read_ahead,
    start,
    content_server,
    content_client,
    second_node,
    cluster,
    tier2_faults,
)

if __name__ == "__main__":
    bars = [bar for part in PARTS for bar in part.run()]
    sys.exit(0 if all(bar.is_met for bar in bars) else 1)
