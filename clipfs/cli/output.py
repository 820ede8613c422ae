"""What commands print: one JSON object, or words; and sizes that people can read."""

import json
import sys
from collections.abc import Mapping


def print_json(value: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def human_bytes(count: int) -> str:
    """1536 -> "1.5 KiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def printable(text: str) -> str:
    """text without what a terminal would obey: other bytes and controls as \\xNN or \\uNNNN."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
