"""The console script `clip-csi`: first it heeds signals, then it loads what they are to end.

Loading takes a second of a container's start. Not here: what it does then (`csi.main`).
"""

from csi.init import hold_signals


def run() -> None:
    """Never returns."""
    hold_signals()
    from csi.main import run as run_command

    run_command()
