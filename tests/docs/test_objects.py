"""Objects that readers copy from README.md and docs/ are taken by Kubernetes and the driver."""

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from csi.main import DRIVER_NAME
from csi.volume import ATTRIBUTES
from tests.docs.texts import DOCS, fenced, named

OF_TOOLS = ("-values.yaml", "kustomization.yaml")
NEWEST = ".".join(kubernetes_validate.latest_version().split(".")[:2])


def _objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """Not the values of a chart, nor a kustomization, which tests/chart renders."""
    for name, text in DOCS.items():
        of_tools = {one for file, one in named(text).items() if file.endswith(OF_TOOLS)}
        for block in set(fenced(text, "yaml")) - of_tools:
            yield from ((name, one) for one in yaml.safe_load_all(block))


OBJECTS = [pytest.param(one, id=f"{name} {one['kind']}") for name, one in _objects()]


@pytest.mark.parametrize("given", OBJECTS)
def test_an_object_is_valid_to_the_letter(given: dict[str, Any]) -> None:
    kubernetes_validate.validate(given, NEWEST, strict=True)


def test_each_volume_of_this_driver_has_attributes_that_it_knows() -> None:
    pods = [one for _, one in _objects() if one["kind"] == "Pod"]
    volumes = [volume.get("csi", {}) for pod in pods for volume in pod["spec"]["volumes"]]
    ours = [one["volumeAttributes"] for one in volumes if one.get("driver") == DRIVER_NAME]
    assert len(ours) >= 1
    assert [one for one in ours if "image" not in one or set(one) - set(ATTRIBUTES)] == []
