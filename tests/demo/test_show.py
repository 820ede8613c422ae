"""What the demo prints: bounded, aligned, and the same words in a log and on a terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from demo import show
from demo.show import NodeRow, Show, TierRow

NODES = [NodeRow(node="A", action="publish", seconds=3.14159, registry=112_920_993,
                 content_cache=0)]  # fmt: skip
TIERS = [
    TierRow(tier="registry", seconds=0.85, bytes=75_453_929, what="node C"),
    TierRow(tier="content cache", seconds=0.0057, bytes=262_144, what="node B"),
]


def printed(*, terminal: bool, columns: int = 200) -> tuple[Show, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=columns, highlight=False)
    return Show(console), out


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_nothing_is_wider_than_the_terminal(columns: int) -> None:
    shown, out = printed(terminal=True, columns=columns)
    shown.reads(TIERS, 53_248)
    shown.checks([("Node B's volume", "x" * 300)])
    plain = Console(file=io.StringIO(), width=1000)
    lines = [plain.render_str(line) for line in out.getvalue().splitlines()]
    assert max(len(_without_colour(str(line))) for line in lines) <= min(columns, show.WIDTH)


def test_a_log_has_the_figures_and_no_control_codes() -> None:
    shown, out = printed(terminal=False)
    with shown.step("node A: publish") as step:
        step.result = "[1] layer"
    shown.nodes(NODES, "One image")
    shown.reads(TIERS, 53_248)
    said = out.getvalue()
    assert "\x1b" not in said
    for words in ("✔ node A: publish", "[1] layer", "3.14", "112,920,993", "One image",
                  "One read of 53,248 bytes", "0.85", "0.0057", "149 x", "75,453,929"):  # fmt: skip
        assert words in said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.345, "12.35"), (1.2345, "1.23"), (0.85123, "0.85"), (0.0057123, "0.0057"),
     (0.00042123, "0.00042"), (0.000042123, "0.000042"), (0.0000021, "0.0000021")],
)  # fmt: skip
def test_seconds_have_two_digits_that_count(seconds: float, text: str) -> None:
    assert show._seconds(seconds) == text


def test_a_tree_is_bounded_and_tells_how_much_more_there_is(tmp_path: Path) -> None:
    (tmp_path / "folder/deep/deeper").mkdir(parents=True)
    for number in range(10):
        (tmp_path / f"folder/file-{number}").write_text("123")
    (tmp_path / "link").symlink_to("folder")
    shown, out = printed(terminal=False)
    shown.tree(tmp_path, "a volume")
    lines = [line.strip() for line in out.getvalue().splitlines()]
    assert lines == [
        "",
        "a volume",
        "├── folder/",
        "│   ├── deep/",
        "│   ├── file-0  3",
        "│   ├── file-1  3",
        "│   └── ... 8 more",
        "└── link -> folder",
    ]


def _without_colour(line: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", line)
