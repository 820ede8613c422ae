"""What `kubectl get` prints, by column."""

import re


def rows_of(said: str) -> list[dict[str, str]]:
    """Each line below the head: its cells by the head's words; an empty cell is ""."""
    if not said:
        return []
    head, *lines = said.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    columns = list(zip(head.split(), starts, [*starts[1:], None], strict=True))
    return [{name: line[start:end].strip() for name, start, end in columns} for line in lines]
