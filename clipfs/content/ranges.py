"""The Range header: bytes of one representation, or the whole of it.

Source: RFC 9110, "Range Requests".
"""

import re

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class Unsatisfiable(ValueError):
    """No byte of the range exists: 416."""


def parse_range(header: str | None, size: int) -> range | None:
    """The bytes of size that header asks for; None: all, for want of a header with one range."""
    match = _RANGE.fullmatch(header) if header else None
    if match is None or match[1] == match[2] == "":
        return None
    if not match[1]:  # the last n bytes
        wanted = range(max(0, size - int(match[2])), size)
    else:
        first = int(match[1])
        last = int(match[2]) if match[2] else size - 1
        if last < first and match[2]:
            return None  # not a range by the grammar: ignored
        wanted = range(first, min(last + 1, size))
    if not len(wanted):
        raise Unsatisfiable(header)
    return wanted
