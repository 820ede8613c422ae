"""README.md and docs/, and what is fenced in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = {path.name: path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}


def fenced(text: str, kind: str) -> list[str]:
    """The blocks of that kind: yaml, mermaid, console."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def named(text: str) -> dict[str, str]:
    """The files that it shows: blocks below a line that is "`NAME`:" and nothing else."""
    return dict(re.findall(r"^`([\w.-]+)`:\n\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
