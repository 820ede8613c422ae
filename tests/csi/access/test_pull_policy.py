"""What a tag is, by pull policy: Kubernetes' meaning, with access proved in each case."""

import json
import urllib.request
from base64 import b64encode

import pytest

from clipfs import errors
from clipfs.image.model import Image
from csi.volume import PullPolicy
from tests.csi.access.conftest import ALICE, Node, Private

LATER_S = 61


@pytest.mark.parametrize(
    ("policy", "here", "which"),
    [
        ("IfNotPresent", True, 0),
        ("IfNotPresent", False, 1),
        ("Always", True, 1),
        ("Always", False, 1),
        ("Never", True, 0),
        ("Never", False, 0),
    ],
)
def test_a_tag_that_moved_is_taken_anew_as_the_policy_says(
    policy: PullPolicy, here: bool, which: int, private: Private, node: Node
) -> None:
    name = private.push("team/app:1")
    images = [node.admit(name)]
    node.has(images[0])
    private.push("team/app:1", 1)
    images.append(node.admit(private.push("team/other:1", 1)))
    if not here:
        node.lost(images[0])
    assert node.admit(name, policy=policy).digest == images[which].digest


def test_always_asks_at_each_publish_and_fetches_only_what_is_new(
    private: Private, node: Node
) -> None:
    name = private.push("team/app:latest")
    first = node.admit(name, policy="Always")
    before = len(private.answered())
    for _ in range(2):
        assert node.admit(name, policy="Always") == first
    assert private.answered()[before:] == ["HEAD latest"] * 2
    private.push("team/app:latest", 1)
    before = len(private.answered())
    second = node.admit(name, policy="Always")
    assert second.digest != first.digest
    assert private.answered()[before:] == ["HEAD latest", "GET latest"]
    node.has(second)
    assert node.admit(name, policy="IfNotPresent") == second


def test_an_image_that_the_registry_has_no_more_is_not_what_its_tag_is_now(
    private: Private, node: Node
) -> None:
    name = private.push("team/app:1")
    old = node.admit(name)
    node.has(old)
    private.remove(name, old.digest)
    private.push("team/app:1", 1)
    node.time.passed_s += LATER_S
    new = node.admit(name)
    assert new.digest != old.digest
    by_digest = f"{name.rpartition(':')[0]}@{old.digest}"
    with pytest.raises(errors.ImageNotFound):
        node.admit(by_digest)
    private.stop()
    with pytest.raises(errors.RegistryUnavailable):
        node.admit(by_digest)


def test_never_does_not_tell_whom_it_may_not_what_is_on_the_node(
    private: Private, node: Node
) -> None:
    """Whether anybody here has the image is the same answer to a stranger."""
    known, unknown = private.push("team/app:1"), private.push("team/app:2")
    node.has(node.admit(known))
    said = []
    for name in (known, unknown):
        with pytest.raises(errors.Unauthenticated) as caught:
            node.admit(name, "", policy="Never")
        said.append(str(caught.value).replace(name, ""))
    assert said[0] == said[1]
    with pytest.raises(errors.ImageNotFound, match="no such image"):
        node.admit(f"{known}-none", policy="Never")


def test_a_volume_that_has_an_image_keeps_it_though_its_tag_moves(
    private: Private, node: Node
) -> None:
    name = private.push("team/app:latest")
    old = node.admit(name, policy="Always")
    private.push("team/app:latest", 1)
    assert node.admit(name, policy="Always").digest != old.digest
    for _ in range(2):
        assert node.admit(name, policy="Always", pinned=old.digest) == old
        node.restart()
    assert node.admit(name, policy="Never").digest != old.digest, "a pin is no tag"


def test_one_tag_is_an_image_a_platform(private: Private, node: Node) -> None:
    names = [private.push(f"team/app:{number}", number) for number in (0, 1)]
    images = [node.admit(name) for name in names]
    put_index(private, "team/app:all", {"amd64": images[0], "s390x": images[1]})
    name = names[0].replace(":0", ":all")
    for _ in range(2):  # the second time from what is remembered
        for platform, image in zip(("amd64", "s390x"), images, strict=True):
            found = node.admit(name, platform=platform)
            assert (found.digest, found.layers) == (image.digest, image.layers)
            node.has(found)
    with pytest.raises(errors.ImageNotFound, match="linux/amd64, linux/s390x"):
        node.admit(name, platform="arm64")
    before = len(private.answered())
    node.time.passed_s += LATER_S
    node.admit(name, platform="s390x")
    (asked,) = private.answered()[before:]
    assert asked.startswith("HEAD sha256:")
    assert asked.removeprefix("HEAD ") not in {image.digest for image in images}


def put_index(private: Private, name: str, children: dict[str, Image]) -> None:
    """Push an index: architecture -> image."""
    media_type = "application/vnd.oci.image.manifest.v1+json"
    repository, _, tag = name.partition(":")
    login = {"Authorization": "Basic " + b64encode(f"alice:{ALICE}".encode()).decode()}
    manifests = []
    base = f"http://{private.address}/v2/{repository}/manifests"
    for architecture, image in children.items():
        digest = image.digest
        request = urllib.request.Request(
            f"{base}/{digest}", headers={**login, "Accept": media_type}
        )
        with urllib.request.urlopen(request) as answer:
            size = len(answer.read())
        manifests.append(
            {"mediaType": media_type, "digest": digest, "size": size,
             "platform": {"os": "linux", "architecture": architecture}}
        )  # fmt: skip
    body = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    headers = {**login, "Content-Type": "application/vnd.oci.image.index.v1+json"}
    request = urllib.request.Request(f"{base}/{tag}", body, headers, method="PUT")
    with urllib.request.urlopen(request):
        pass
