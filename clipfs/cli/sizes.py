"""Sizes as people read them, on terminals, in events and in answers: 1,000 bytes are a kB."""

_UNITS = ("B", "kB", "MB", "GB", "TB")


def human_bytes(count: float) -> str:
    """1536 -> "1.5 kB": two digits, and no more than it takes."""
    unit = _unit(count)
    return f"{_in(unit, count)} {_UNITS[unit]}"


def human_part(done: int, total: int) -> str:
    """ "1.2 of 2.9 GB", or "31 MB of 2.9 GB" where that says more."""
    unit = _unit(total)
    if done and done < 1000**unit:
        return f"{human_bytes(done)} of {human_bytes(total)}"
    return f"{_in(unit, done)} of {human_bytes(total)}"


def _unit(count: float) -> int:
    """The largest in which count is one or more, once it is rounded."""
    unit = 0
    while unit + 1 < len(_UNITS) and count >= 999.5:
        count, unit = count / 1000, unit + 1
    return unit


def _in(unit: int, count: float) -> str:
    """Bytes are whole."""
    value = count / 1000**unit
    return (f"{value:.1f}" if unit and value < 9.95 else f"{value:.0f}").removesuffix(".0")
