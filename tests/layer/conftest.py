"""Fixtures of the layer's tests: an empty root, and a machine that can boot anew."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clipfs.layer.layout import Layout
from clipfs.system import processes


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    made.make()
    return made


@pytest.fixture
def next_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Call it, and the machine has booted anew."""
    boots = iter(range(100))

    def boot() -> None:
        (tmp_path / "boot_id").write_text(f"00000000-0000-0000-0000-{next(boots):012}\n")
        monkeypatch.setattr(processes, "_BOOT_ID", tmp_path / "boot_id")

    return boot
