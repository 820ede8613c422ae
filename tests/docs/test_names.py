"""Names in README.md and docs/ are those of files, modules, calls and headings that there are."""

import importlib.util
import re

import pytest

from csi.identity import Identity
from csi.node import Node
from tests.docs.texts import DOCS, ROOT, fenced

_PATH = re.compile(r"(?<![\w./<-])(?:csi|clipfs|tests|charts|manifests|bench|docs)/[\w/.-]*\w")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)")
_PARTICIPANT = re.compile(r"participant \w+ as ((?:csi|clipfs)[.\w]+)$", re.MULTILINE)
_MODULE = re.compile(r"(?<![\w/])csi(?:\.[a-z_]+)+")


def _anchors(text: str) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("name", DOCS)
def test_a_file_or_folder_that_is_named_is_there(name: str) -> None:
    named = {one.partition("::")[0] for one in _PATH.findall(DOCS[name])}
    assert [one for one in sorted(named) if not (ROOT / one).exists()] == []


@pytest.mark.parametrize("name", DOCS)
def test_a_link_leads_to_a_file_and_a_heading_that_are_there(name: str) -> None:
    folder = ROOT if name == "README.md" else ROOT / "docs"
    for target, heading in _LINK.findall(DOCS[name]):
        path = folder / target if target else folder / name
        assert path.exists(), target
        assert not heading or heading in _anchors(path.read_text()), (target, heading)


def test_the_readme_links_each_page_of_the_documentation() -> None:
    linked = {target for target, _ in _LINK.findall(DOCS["README.md"])}
    assert {f"docs/{name}" for name in DOCS if name != "README.md"} <= linked


def test_each_call_that_the_driver_serves_has_a_heading_and_a_diagram_below_it() -> None:
    calls = [name for kind in (Node, Identity) for name in vars(kind) if name[0].isupper()]
    assert len(calls) >= 8
    sections = re.split(r"^### ", DOCS["architecture.md"], flags=re.MULTILINE)
    drawn = " ".join(one.partition("\n")[0] for one in sections if fenced(one, "mermaid"))
    assert [one for one in calls if one not in drawn] == []


def test_a_module_in_a_diagram_is_one() -> None:
    diagrams = fenced(DOCS["architecture.md"], "mermaid")
    named = {one for text in diagrams for one in _PARTICIPANT.findall(text) + _MODULE.findall(text)}
    assert len(named) > 10
    assert [one for one in sorted(named) if importlib.util.find_spec(one) is None] == []
