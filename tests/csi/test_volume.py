"""What a pod may ask for: requests in, volumes or one clear refusal out."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipfs import errors
from clipfs.image.platform import Platform
from csi.credentials.given import config_of
from csi.credentials.sources import GivenSecret
from csi.node import MAX_MESSAGE_CHARACTERS
from csi.proto import csi_pb2 as pb
from csi.volume import VolumeRules, parse_publish, parse_target, real_place

ROOT = Path("/kubelet")
RULES = VolumeRules(kubelet_root=ROOT, platform=Platform("linux", "arm64"), front="auto")
TARGET = "/kubelet/pods/1/volumes/kubernetes.io~csi/image/mount"
MOUNT = pb.VolumeCapability(
    mount=pb.VolumeCapability.MountVolume(),
    access_mode=pb.VolumeCapability.AccessMode(mode=pb.VolumeCapability.AccessMode.UNKNOWN),
)
BLOCK = pb.VolumeCapability(block=pb.VolumeCapability.BlockVolume())


def request(**changes: Any) -> pb.NodePublishVolumeRequest:
    fields: dict[str, Any] = {
        "volume_id": "csi-1",
        "target_path": TARGET,
        "volume_capability": MOUNT,
        "volume_context": {"image": "host:5000/app:1"},
    }
    return pb.NodePublishVolumeRequest(**{**fields, **changes})


def attributes(**given: str) -> pb.NodePublishVolumeRequest:
    return request(volume_context={"image": "host:5000/app:1", **given})


def test_a_volume_that_says_only_its_image_gets_what_the_administrator_chose() -> None:
    volume = parse_publish(request(), RULES)
    assert (str(volume.image), volume.pull_policy) == ("host:5000/app:1", "IfNotPresent")
    assert (volume.platform, volume.front) == (RULES.platform, "auto")
    assert volume.target == Path(TARGET)


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("host:5000/app:1", "IfNotPresent"),
        ("host:5000/app:latest", "Always"),
        ("host:5000/app", "Always"),
        ("app", "Always"),
        (f"app@sha256:{'a' * 64}", "IfNotPresent"),
        (f"app:latest@sha256:{'a' * 64}", "IfNotPresent"),
    ],
)
def test_only_what_is_called_latest_is_asked_for_at_each_publish(image: str, policy: str) -> None:
    assert parse_publish(attributes(image=image), RULES).pull_policy == policy
    assert parse_publish(attributes(image=image, pullPolicy=""), RULES).pull_policy == policy
    never = parse_publish(attributes(image=image, pullPolicy="Never"), RULES)
    assert never.pull_policy == "Never"


def test_what_a_volume_says_holds() -> None:
    asked = attributes(pullPolicy="Never", platform="linux/arm/v7", front="fuse")
    volume = parse_publish(asked, RULES)
    assert (volume.pull_policy, volume.front) == ("Never", "fuse")
    assert volume.platform == Platform("linux", "arm", "v7")


def test_the_kubelets_own_keys_are_no_attributes_whatever_they_hold() -> None:
    keys = ("pod.name", "pod.namespace", "pod.uid", "serviceAccount.tokens", "ephemeral", "new")
    given = {f"csi.storage.k8s.io/{key}": "x" for key in keys}
    volume = parse_publish(attributes(**given), RULES)
    assert dict(volume.attributes) == {"image": "host:5000/app:1"}
    assert str(volume.pod) == "x/x"


@pytest.mark.parametrize("mode", pb.VolumeCapability.AccessMode.Mode.values())
def test_every_access_mode_is_taken(mode: pb.VolumeCapability.AccessMode.Mode.ValueType) -> None:
    access = pb.VolumeCapability.AccessMode(mode=mode)
    capability = pb.VolumeCapability(mount=pb.VolumeCapability.MountVolume(), access_mode=access)
    assert parse_publish(request(volume_capability=capability), RULES).volume_id == "csi-1"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        pytest.param(request(volume_id=""), "volume id is missing", id="volume-id"),
        pytest.param(request(target_path=""), "target path is missing", id="target"),
        pytest.param(request(volume_capability=None), "capability is missing", id="capability"),
        pytest.param(
            request(volume_capability=BLOCK), "block", id="block-mode"
        ),
        pytest.param(request(volume_context={}), "image is missing", id="no-image"),
        pytest.param(attributes(image=""), "image is missing", id="empty-image"),
        pytest.param(attributes(image="host/UPPER"), "repository", id="upper-case"),
        pytest.param(attributes(image="--help"), "repository", id="an-option-as-image"),
        pytest.param(attributes(image="host/app:1\n"), "not a tag", id="newline"),
        pytest.param(attributes(image="host/a\0b"), "repository", id="nul"),
        pytest.param(attributes(image="host/app@md5:1"), "digest", id="digest"),
        pytest.param(attributes(image="https://host/app"), "has no scheme", id="url"),
        pytest.param(attributes(image="../../etc"), "registry host", id="dots"),
        pytest.param(attributes(image="a" * 100_000), "longer", id="very-long-image"),
        pytest.param(attributes(image='{"a": 1}'), "image reference", id="json"),
        pytest.param(attributes(platform="linux"), "OS/ARCH", id="half-a-platform"),
        pytest.param(attributes(platform="linux/amd64/v1/x"), "OS/ARCH", id="long-platform"),
        pytest.param(attributes(platform="--root=/"), "OS/ARCH", id="an-option-as-platform"),
        pytest.param(attributes(platform="/" * 100_000), "OS/ARCH", id="very-long-platform"),
        pytest.param(attributes(pullPolicy="always"), "IfNotPresent, Always, Never", id="case"),
        pytest.param(attributes(pullPolicy="true"), "IfNotPresent", id="boolean"),
        pytest.param(attributes(pullPolicy="x" * 100_000), "IfNotPresent", id="very-long-policy"),
        pytest.param(attributes(front="nfs"), "auto, erofs, fuse", id="another-front"),
        pytest.param(attributes(front="\0"), "auto, erofs, fuse", id="no-front"),
        pytest.param(attributes(Image="x"), "known are: image, pullPolicy, platform, front",
                     id="unknown"),
        pytest.param(attributes(plainHttp="true"), "known are", id="the-administrators"),
        pytest.param(attributes(**{"csi.storage.k8s.io": "x"}), "known are", id="almost-kubelets"),
        pytest.param(attributes(**{"": "x"}), "known are", id="nameless"),
        pytest.param(attributes(**{"x" * 100_000: "x"}), "known are", id="very-long-name"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_named_in_a_few_words(
    asked: pb.NodePublishVolumeRequest, words: str
) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        parse_publish(asked, RULES)
    assert words in str(caught.value)
    assert len(str(caught.value)) < MAX_MESSAGE_CHARACTERS


@pytest.mark.parametrize(
    "image",
    [
        "alice:hush@host:5000/app:1",
        "https://alice:hush@host/app",
        "alice:hush@sha256:5000/app",
        f"alice:hu@hush@host/app@sha256:{'a' * 64}",
        "hush@",
    ],
)
def test_an_image_that_may_hold_a_password_is_refused_and_not_repeated(image: str) -> None:
    with pytest.raises(errors.InvalidInput, match="which may hold a password") as caught:
        parse_publish(attributes(image=image), RULES)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("/elsewhere/mount", id="elsewhere"),
        pytest.param("/kubelet", id="the-folder-itself"),
        pytest.param("/kubelet/../etc", id="dots-out"),
        pytest.param("/kubelet2/mount", id="same-prefix"),
        pytest.param("kubelet/mount", id="relative"),
        pytest.param("/", id="root"),
        pytest.param("/kubelet/a\0b", id="nul"),
        pytest.param("/kubelet/" + "x" * 256, id="long-name"),
        pytest.param("/kubelet" + "/x" * 2048, id="long-path"),
    ],
)
def test_a_target_that_is_not_below_the_kubelets_folder_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match="target path"):
        parse_target(text, ROOT)


def test_a_target_may_be_written_in_several_ways() -> None:
    for text in (TARGET, TARGET + "/", "/kubelet//pods/../" + TARGET[len("/kubelet/") :]):
        assert parse_target(text, ROOT) == Path(TARGET)


def test_links_above_a_target_are_followed_as_mountinfo_does(tmp_path: Path) -> None:
    (tmp_path / "real/pods").mkdir(parents=True)
    (tmp_path / "kubelet").symlink_to("real")
    (tmp_path / "real/out").symlink_to("/")
    root = tmp_path / "real"
    assert parse_target(f"{tmp_path}/kubelet/pods/mount", root) == root / "pods/mount"
    with pytest.raises(errors.InvalidInput, match="not below"):
        parse_target(f"{tmp_path}/kubelet/out/mount", root)


def test_the_target_itself_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mount").symlink_to("/")
    assert real_place(f"{tmp_path}/mount") == tmp_path / "mount"


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=5), st.text())
def test_no_request_does_worse_than_invalid_input(context: dict[str, str], text: str) -> None:
    for asked in (
        request(volume_context={"image": "a", **context}),
        request(volume_context={"image": text}),
        request(target_path=text),
        request(target_path="/kubelet/" + text),
        request(secrets=context),
        request(secrets={".dockerconfigjson": text}),
    ):
        with contextlib.suppress(errors.InvalidInput):
            assert ROOT in parse_publish(asked, RULES).target.parents


IMAGE = parse_publish(request(), RULES).image
AUTH = "dXNlcjpzZWNyZXQ="  # user:secret


@pytest.mark.parametrize(
    "secrets",
    [
        pytest.param({"username": "user", "password": "secret"}, id="pair"),
        pytest.param({"username": "user", "password": "secret", "note": "x"}, id="pair-and-more"),
        pytest.param({".dockerconfigjson": f'{{"auths":{{"host:5000":{{"auth":"{AUTH}"}}}}}}'},
                     id="auth"),
        pytest.param({".dockerconfigjson": f'{{"auths":{{"https://host:5000/v2/":'
                                           f'{{"auth":"{AUTH}"}}}}}}'}, id="url"),
        pytest.param({".dockerconfigjson":
                      '{"auths":{"host:5000":{"username":"user","password":"secret"}}}'},
                     id="words"),
        pytest.param({".dockerconfigjson": f'{{"auths":{{"host:5000":{{"auth":"{AUTH}"}}}}}}',
                      "username": "other", "password": "word"}, id="config-before-pair"),
    ],
)  # fmt: skip
def test_a_secret_is_a_docker_config_or_a_name_and_a_password(secrets: dict[str, str]) -> None:
    found = config_of(secrets, IMAGE).for_repository("host:5000", "app")
    assert found is not None
    assert (found.username, found.password) == ("user", "secret")


def test_a_bare_name_and_password_are_for_the_images_own_registry_only() -> None:
    config = config_of({"username": "user", "password": "secret"}, IMAGE)
    assert config.for_repository("host", "app") is None
    assert config.for_repository("docker.io", "library/app") is None


@pytest.mark.parametrize(
    "secrets",
    [
        pytest.param({"username": "hush"}, id="no-password"),
        pytest.param({"password": "hush"}, id="no-name"),
        pytest.param({"token": "hush"}, id="other-key"),
        pytest.param({".dockerconfigjson": "hush"}, id="no-json"),
        pytest.param({".dockerconfigjson": '["hush"]'}, id="a-list"),
        pytest.param({".dockerconfigjson": '{"auths": {"host:5000": {"auth": "hush!"}}}'},
                     id="no-base64"),
        pytest.param({"k" * 100_000: "hush"}, id="very-long-key"),
    ],
)  # fmt: skip
def test_another_secret_is_refused_without_a_word_of_what_it_holds(
    secrets: dict[str, str],
) -> None:
    volume = parse_publish(request(secrets=secrets), RULES)
    with pytest.raises(errors.InvalidInput) as caught:
        GivenSecret().credentials(volume)
    assert "hush" not in str(caught.value) + repr(caught.value.__cause__)
    assert len(str(caught.value)) < MAX_MESSAGE_CHARACTERS


def test_nothing_that_is_printed_of_a_volume_holds_its_secret() -> None:
    asked = request(secrets={"username": "user", "password": "hush"})
    assert "hush" not in repr(parse_publish(asked, RULES))
