"""The plugin that guards the whole suite fails a run with a skip, and one that lost its tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="the guard is off there"
)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param("pytest.skip('why not')", "was skipped", id="skip"),
        pytest.param("pass", "fewer than the floor", id="floor"),
    ],
)
def test_a_run_is_not_green(body: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(f"import pytest\n\ndef test_it():\n    {body}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.whole", "-p", "no:cacheprovider",
         "--rootdir", str(tmp_path), "-c", os.devnull, str(tmp_path)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert complaint in done.stdout
