"""Who runs, as /proc shows it; what ended meanwhile is passed over."""

from pathlib import Path


def children(pid: int | str) -> list[int]:
    """What the threads of pid have started and not reaped."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(word) for word in _read(path).split()]
    return found


def descendants(pid: int | str) -> list[int]:
    """Children of pid, and theirs."""
    return [one for child in children(pid) for one in (child, *descendants(child))]


def command_line(process: Path) -> bytes:
    """Of a folder /proc/PID; nothing if that has ended."""
    return _read(process / "cmdline")


def short_name(pid: int) -> str:
    """What ps and top call it; nothing if it has ended."""
    return _read(Path(f"/proc/{pid}/comm")).decode().strip()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
