"""How the demo looks: steps as they are done, tables, a tree; on a terminal and in a log alike."""

import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

WIDTH = 100
"""Columns, or the terminal's if it is narrower; in a log just these."""

LINES_A_FOLDER = 3
LINES_OF_THE_ROOT = 20
TREE_DEPTH = 2


@dataclass(slots=True)
class Step:
    """What a step has to say once it is done."""

    result: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierRow:
    """One line of the read's table; `bytes` is what the tier moved, `what` how it was measured."""

    tier: str
    seconds: float
    bytes: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One line of the nodes' table; bytes by the node's own `clipfs stats`."""

    node: str
    action: str
    seconds: float
    registry: int
    content_cache: int


class Show:
    """Prints to stdout; a spinner shows the step under way where that is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        made = console or Console(highlight=False)
        made.width = min(made.width, WIDTH) if made.is_terminal else WIDTH
        self._console = made

    def heading(self, title: str, text: str) -> None:
        self._console.rule(f"[bold]{title}")
        self._console.print(f"\n{text}\n")

    @contextmanager
    def step(self, text: str) -> Iterator[Step]:
        """Show that text is under way, then that it is done, with its result and its seconds."""
        step, begin = Step(), time.perf_counter()
        with self._console.status(text, spinner="dots"):
            yield step
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=1, style="green")
        grid.add_column(width=25)
        grid.add_column(style="cyan", ratio=1)
        grid.add_column(width=7, justify="right", style="dim")
        seconds = f"{time.perf_counter() - begin:.1f} s"
        grid.add_row("✔", text, escape(step.result), seconds)
        self._console.print(grid)

    def nodes(self, rows: Sequence[NodeRow], title: str) -> None:
        table = _table(title, "node", "what happens there")
        table.add_column("seconds", justify="right", style="bold")
        table.add_column("from registry", justify="right")
        table.add_column("from content cache", justify="right")
        for row in rows:
            table.add_row(
                row.node,
                row.action,
                f"{row.seconds:.2f}",
                _count(row.registry),
                _count(row.content_cache),
            )
        self._print(table)

    def reads(self, rows: Sequence[TierRow], read_bytes: int) -> None:
        """Slowest first; how many times faster than the first row is added."""
        table = _table(f"One read of {read_bytes:,} bytes, by the tier that answers it", "tier")
        table.add_column("seconds", justify="right", style="bold")
        table.add_column("faster", justify="right", style="green")
        table.add_column("bytes moved", justify="right")
        table.add_column("what was measured", style="dim", ratio=1)
        for row in rows:
            faster = f"{rows[0].seconds / row.seconds:,.0f} x" if row is not rows[0] else ""
            table.add_row(row.tier, _seconds(row.seconds), faster, _count(row.bytes), row.what)
        self._print(table)

    def tree(self, volume: Path, title: str) -> None:
        self._print(tree_of(volume, title))

    def checks(self, lines: Sequence[tuple[str, str]]) -> None:
        grid = Table.grid(padding=(0, 1))
        for what, seen in lines:
            grid.add_row("[green]✔[/]", what, f"[cyan]{escape(seen)}[/]")
        self._print("[bold]Checked[/]")
        self._console.print(grid)

    def done(self, text: str) -> None:
        self._print(f"[bold green]{escape(text)}")

    def failed(self, text: str) -> None:
        sys.stdout.flush()
        err = Console(stderr=True, highlight=False, soft_wrap=True)
        err.print(f"[bold red]demo: {escape(text)}")

    def _print(self, what: RenderableType) -> None:
        self._console.print()
        self._console.print(what)


def tree_of(volume: Path, title: str) -> Tree:
    """A bounded listing: the first names of each folder, and how many more there are."""
    tree = Tree(f"[bold]{escape(title)}", guide_style="dim")
    _grow(tree, str(volume), TREE_DEPTH, LINES_OF_THE_ROOT)
    return tree


def _grow(tree: Tree, folder: str, depth: int, lines: int) -> None:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found[:lines]:
        branch = tree.add(_label(entry))
        if depth > 1 and entry.is_dir(follow_symlinks=False):
            _grow(branch, entry.path, depth - 1, LINES_A_FOLDER)
    if len(found) > lines:
        tree.add(f"[dim]... {len(found) - lines:,} more")


def _label(entry: os.DirEntry[str]) -> str:
    name = escape(entry.name)
    if entry.is_symlink():
        return f"[cyan]{name}[/] -> {escape(os.readlink(entry.path))}"
    about = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(about.st_mode):
        return f"[bold blue]{name}/[/]"
    return f"{name}  [dim]{about.st_size:,}[/]"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.ROUNDED)
    table.expand = True
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _count(number: int) -> str:
    return f"{number:,}"


def _seconds(seconds: float) -> str:
    """Two digits that count: tiers differ by powers of ten."""
    places = next((n for n in range(2, 7) if seconds >= 10 ** (1 - n)), 7)
    return f"{seconds:.{places}f}"
