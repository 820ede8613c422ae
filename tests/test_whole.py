"""The plugin that guards the whole suite fails a run with a skip, and one that lost its tests.

So it does whether the tests run in its own process or in others.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="the guard is off there"
)


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param("pytest.skip('why not')", "was skipped", id="skip"),
        pytest.param("pass", "fewer than the floor", id="floor"),
    ],
)
def test_a_run_is_not_green(body: str, complaint: str, processes: int, tmp_path: Path) -> None:
    done = run(tmp_path, f"def test_it():\n    {body}\n", processes)
    assert done.returncode == 1, done.stdout
    assert complaint in done.stdout


@pytest.mark.parametrize("processes", [0, 2])
def test_it_ends_with_what_its_tests_say(processes: int, tmp_path: Path) -> None:
    body = "def test_it(say):\n    say('7 requests')\n    say('in flight')\n    assert {}\n"
    done = run(tmp_path, body.format("say"), processes)
    assert "\ntest_it.py::test_it\n  7 requests\n  in flight\n" in done.stdout
    done = run(tmp_path, body.format("not say"), processes)
    assert "\ntest_it.py::test_it\n  7 requests\n  in flight\n" in done.stdout


def run(folder: Path, body: str, processes: int) -> subprocess.CompletedProcess[str]:
    """pytest over one module of that body, as the whole suite is run."""
    (folder / "test_it.py").write_text(f"import pytest\n\n{body}")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.whole", "-p", "tests.support.said",
         "-p", "no:cacheprovider", "-n", str(processes), "--dist", "loadfile",
         "--rootdir", str(folder), "-c", os.devnull, str(folder)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
