"""`manifests/examples` without a cluster: each kind is there, valid, and names what there is.

Not here: what an API server says of them (`tests.csi.cluster`); pods made of them (`tests.e2e`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from csi.volume import ATTRIBUTES
from tests.support.apiserver import manifest
from tests.support.helm import MINORS

FOLDER = Path(manifest("examples"))
DRIVER = "csi.clipfs.dev"
VOLUMES = {
    "inline-volume": {"Pod"},
    "private-image": {"Pod"},
    "model-weights": {"Pod"},
    "deployment": {"Deployment"},
    "persistent-volume": {"PersistentVolume", "PersistentVolumeClaim", "Pod"},
    "index-after-build": {"Job"},
}
"""Those that mount an image, and their kinds of object."""

RIGHTS = {"image-policy", "pull-secrets", "startup-taint"}
OTHERS = {"remove-images"}


def _objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def _volumes(found: Any) -> Iterator[dict[str, Any]]:
    """Each volume of the driver, however deep in the object."""
    if isinstance(found, dict):
        if found.get("driver") == DRIVER:
            yield found
        for one in found.values():
            yield from _volumes(one)
    elif isinstance(found, list):
        for one in found:
            yield from _volumes(one)


def test_each_kind_of_example_is_there() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == VOLUMES.keys() | RIGHTS | OTHERS


@pytest.mark.parametrize("name", sorted(VOLUMES.keys() | RIGHTS | OTHERS))
@pytest.mark.parametrize("minor", MINORS)
def test_every_object_is_valid_to_the_letter(name: str, minor: str) -> None:
    for one in _objects(name):
        kubernetes_validate.validate(one, minor, strict=True)


@pytest.mark.parametrize("name", VOLUMES)
def test_its_one_volume_is_as_the_driver_takes_it(name: str) -> None:
    objects = _objects(name)
    assert {one["kind"] for one in objects} == VOLUMES[name]
    [volume] = _volumes(objects)
    assert volume["readOnly"] is True
    assert "image" in volume["volumeAttributes"]
    assert volume["volumeAttributes"].keys() <= set(ATTRIBUTES)


def test_only_the_private_image_names_a_secret_and_none_is_in_a_file() -> None:
    naming = {
        name
        for name in VOLUMES
        if any("nodePublishSecretRef" in one for one in _volumes(_objects(name)))
    }
    assert naming == {"private-image"}
    assert "Secret" not in {one["kind"] for path in FOLDER.glob("*") for one in _objects(path.stem)}


def test_a_claim_is_bound_to_the_volume_beside_it() -> None:
    volume, claim, pod = _objects("persistent-volume")
    name = claim["metadata"]["name"]
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert volume["spec"]["claimRef"]["name"] == name
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == name
    for one in (volume, claim):
        assert one["spec"]["accessModes"] == ["ReadOnlyMany"]
        assert one["spec"]["storageClassName"] == ""
