"""What a process loads before it does anything: each of these costs every mount its time."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("clipfs.layer.worker", {"trio", "structlog", "rich", "httpx"}),
        ("clipfs.tree.worker", {"trio", "structlog", "rich", "httpx"}),
        ("clipfs.cli.mount", {"structlog", "rich", "pygments", "pyfuse3"}),
    ],
)
def test_a_process_does_not_load_what_it_does_not_use(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*(n for n, found in sys.modules.items() if found))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert absent.isdisjoint(done.stdout.split())


def test_progress_bars_find_rich_all_the_same() -> None:
    code = """if True:
        import sys
        import clipfs.cli.mount
        from clipfs.cli import progress
        sys.stderr.isatty = lambda: True
        with progress.shown():
            assert sys.modules["rich"] is not None
    """
    subprocess.run([sys.executable, "-c", code], check=True)
