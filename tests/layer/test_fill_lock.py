"""One filler a layer, registry and node, among processes, however the last one ended."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipfs.layer.layout import Layout
from clipfs.layer.partial import fill_lock, filling
from tests.layer.partials import KEY

HOLDER = """
import sys
from pathlib import Path
from clipfs.layer.layout import Layout
from clipfs.layer.partial import filling

with filling(Layout(Path(sys.argv[1])), sys.argv[2], "record") as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""

RACER = """
import sys
from pathlib import Path
from clipfs.layer.layout import Layout
from clipfs.layer.partial import filling

layout, key = Layout(Path(sys.argv[1])), sys.argv[2]
print(flush=True)
sys.stdin.read()
while not layout.payload(key).exists():
    with filling(layout, key, "record") as mine:
        if mine and not layout.payload(key).exists():
            print("fills", flush=True)
            layout.payload(key).touch()
"""


@contextmanager
def process(code: str, root: Path) -> Iterator[subprocess.Popen[str]]:
    """It runs, and has said its first line when the block begins its own work."""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(root), KEY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def line_of(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def let_go(running: subprocess.Popen[str]) -> None:
    assert running.stdin is not None
    running.stdin.close()


def is_free(layout: Layout) -> bool:
    with filling(layout, KEY, "record") as mine:
        return mine


def is_left_alone(layout: Layout) -> bool:
    with fill_lock(layout, KEY) as mine:
        return mine


def test_the_lock_is_one_process_s_until_it_lets_go(layout: Layout) -> None:
    with process(HOLDER, layout.root) as holder:
        assert line_of(holder) == "True"
        assert not is_free(layout)
        assert not is_left_alone(layout)
        let_go(holder)
        assert holder.wait() == 0
    assert is_free(layout)
    assert is_left_alone(layout)
    assert list(layout.run.iterdir()) == []


def test_a_killed_holder_lets_go(layout: Layout) -> None:
    with process(HOLDER, layout.root) as holder:
        assert line_of(holder) == "True"
        holder.send_signal(signal.SIGKILL)
        assert holder.wait() == -signal.SIGKILL
    assert is_free(layout)


def test_locks_of_other_layers_are_free(layout: Layout) -> None:
    with filling(layout, KEY, "a") as mine, filling(layout, KEY[:-1] + "b", "b") as other:
        assert mine
        assert other


def test_those_who_fill_from_different_registries_do_not_wait_for_each_other(
    layout: Layout,
) -> None:
    with process(HOLDER, layout.root) as holder:
        assert line_of(holder) == "True"
        with filling(layout, KEY, "another record") as mine:
            assert mine
            let_go(holder)
            assert holder.wait() == 0
            assert not is_left_alone(layout)
        assert is_left_alone(layout)
    assert list(layout.run.iterdir()) == []


def test_nobody_fills_a_layer_that_is_being_removed(layout: Layout) -> None:
    with fill_lock(layout, KEY) as mine:
        assert mine
        assert not is_free(layout)
    assert is_free(layout)


def test_of_processes_that_want_the_same_layer_one_fills(layout: Layout) -> None:
    with (
        process(RACER, layout.root) as one,
        process(RACER, layout.root) as two,
        process(RACER, layout.root) as three,
    ):
        racers = (one, two, three)
        for racer in racers:
            assert line_of(racer) == ""
        for racer in racers:
            let_go(racer)
        assert sorted(line_of(racer) for racer in racers) == ["", "", "fills"]
        assert [racer.wait() for racer in racers] == [0, 0, 0]
