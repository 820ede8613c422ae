"""Programs of the harness: what begins as another program is not taken for one that has ended."""

import os
import subprocess
import sys
from pathlib import Path

WAITS = """\
from tests.e2e.cluster import processes
from tests.e2e.cluster.place import STATE

processes.POLL_S = 0
for name in ("log", "pid"):
    (STATE / name).mkdir()
processes.start("it", ["sh", str(STATE / "script"), "200"])
processes.until("it", (STATE / "ready").exists, "it")
processes.end_all()
try:
    processes.until("it", lambda: False, "it")
except processes.NotUp as error:
    print(error)
"""
BECOMES_ITSELF = """
[ "$1" -gt 0 ] && exec sh "$0" $(($1 - 1))
touch "${0%/*}/ready"
exec sleep 60
"""


def test_a_program_that_becomes_another_is_waited_for_until_it_has_ended(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(BECOMES_ITSELF)
    done = subprocess.run(
        [sys.executable, "-c", WAITS],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CLUSTER_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "it: it has ended:"
