"""Every value is said: in the schema, and with a comment and its unit in values.yaml."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart.values import ALL, SCHEMA, TEXT, at, is_open


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "properties" in node:
            yield node
        for value in node.values():
            yield from _objects(value)


def test_the_schema_lets_no_unknown_key_pass_anywhere() -> None:
    found = list(_objects(SCHEMA))
    assert len(found) > 20
    assert [one for one in found if one.get("additionalProperties") is not False] == []


def test_the_schema_and_the_values_have_the_same_keys() -> None:
    named = {path for path in _named(SCHEMA) if not path.startswith("global")}
    assert named - {"node.updateStrategy.rollingUpdate"} == set(ALL)


def _named(node: dict[str, Any], above: str = "") -> Iterator[str]:
    for key in node["properties"]:
        path = f"{above}{key}"
        if "properties" in at(path) and not is_open(path):
            yield from _named(at(path), f"{path}.")
        else:
            yield path


def commented() -> dict[str, str]:
    """Path of each value -> the comment above it."""
    found: dict[str, str] = {}
    comment: list[str] = []
    path: list[tuple[int, str]] = []
    for line in TEXT.splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment.append(text.lstrip("# "))
        elif key := re.match(r"( *)([A-Za-z]+):", line):
            path = [one for one in path if one[0] < len(key[1])] + [(len(key[1]), key[2])]
            found[".".join(name for _, name in path)] = " ".join(comment)
            comment = []
        else:
            comment = []
    return found


@pytest.mark.parametrize("path", ALL)
def test_every_value_has_a_comment(path: str) -> None:
    of_parent = path in ("node.updateStrategy.type",)
    said = commented()[path.rpartition(".")[0] if of_parent else path]
    assert len(said) > 10


UNITS = {
    r"(maxBytes|minFree|size)$": "bytes with a unit",
    r"resources$": "cores and memory in bytes",
    r"accessGrace$": "hours, minutes or seconds",
    r"interval$": "seconds",
    r"replicas$": "Pods",
    r"metricsPort$": "number",
}


@pytest.mark.parametrize("path", [one for one in ALL if any(re.search(p, one) for p in UNITS)])
def test_an_amount_has_its_unit_in_the_comment(path: str) -> None:
    [unit] = [unit for pattern, unit in UNITS.items() if re.search(pattern, path)]
    assert unit in commented()[path]
