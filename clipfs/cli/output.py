"""What commands print: one JSON object, or words."""

import json
import sys
from collections.abc import Mapping


def print_json(value: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """text without what a terminal would obey: other bytes and controls as \\xNN or \\uNNNN."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
