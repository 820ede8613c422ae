"""The chart's values and their schema, read as files: what values there are."""

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.support.helm import CHART, Values

TEXT = (CHART / "values.yaml").read_text()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
_OPEN = ("strings", "resources", "affinity", "tolerations")


def leaves(values: Values, above: str = "") -> Iterator[str]:
    """Paths of all values: what is a map in the schema, of the user's own keys, is one value."""
    for key, value in values.items():
        path = f"{above}{key}"
        if isinstance(value, dict) and "properties" in at(path) and not is_open(path):
            yield from leaves(value, f"{path}.")
        else:
            yield path


def at(path: str) -> dict[str, Any]:
    node: dict[str, Any] = SCHEMA
    for key in path.split("."):
        node = node["properties"][key]
        if "$ref" in node:
            node = SCHEMA["definitions"][node["$ref"].rpartition("/")[2]]
    return node


def is_open(path: str) -> bool:
    """Whether it has Kubernetes' own shape."""
    return any(at(path) is SCHEMA["definitions"][name] for name in _OPEN)


ALL = list(leaves(yaml.safe_load(TEXT)))
