"""The administrator's rules: what they let through, and what a file may say."""

from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.platform import host_platform
from clipfs.image.reference import parse_reference
from csi.access.access import Access
from csi.access.policy import load_policy, parse_policy
from csi.errors import RefusedByPolicy
from csi.node import MAX_MESSAGE_CHARACTERS
from csi.pod import Pod
from csi.volume import Volume
from tests.csi.access.conftest import GRACE_S, Node, NodeOf
from tests.support.web import Reply, run_web

DIGEST = "sha256:" + "a" * 64
RULES = """\
[[rule]]
namespaces = ["team-*", "ops"]
images = ["registry.example/team/*", "docker.io/library/app:1"]

[[rule]]
namespaces = ["team-a"]
images = ["quay.io/*"]
digests_required = true

[[rule]]
images = ["ghcr.io/public/tool[:@]*"]
"""


def volume(image: str, namespace: str | None = "team-a") -> Volume:
    pod = None if namespace is None else Pod(namespace=namespace, name="pod", uid="1")
    return Volume(
        volume_id="csi-1", target=Path("/t"), image=parse_reference(image),
        pull_policy="IfNotPresent", platform=host_platform(), front="auto", attributes={}, pod=pod,
        credentials=RegistryConfig.empty(),
    )  # fmt: skip  # as everywhere


@pytest.mark.parametrize(
    ("namespace", "image", "allowed"),
    [
        ("team-a", "registry.example/team/app:1", True),
        ("team-a", "registry.example/team/deep/er/app:1", True),
        ("ops", "registry.example/team/app", True),
        ("ops2", "registry.example/team/app", False),
        ("Ops", "registry.example/team/app", False),
        ("team-a", "registry.example/teams/app:1", False),
        ("team-a", "registry.example.evil.com/team/app:1", False),
        ("team-a", "Registry.example/team/app:1", False),
        ("team-a", "app:1", True),
        ("team-a", "index.docker.io/library/app:1", True),
        ("team-a", "app", False),
        ("team-a", f"app:1@{DIGEST}", False),
        ("team-a", f"app@{DIGEST}", False),
        ("team-a", "quay.io/app:1", False),
        ("team-a", f"quay.io/app@{DIGEST}", True),
        ("team-a", f"quay.io/app:1@{DIGEST}", True),
        ("team-b", f"quay.io/app@{DIGEST}", False),
        ("anybody", "ghcr.io/public/tool:1", True),
        ("anybody", f"ghcr.io/public/tool@{DIGEST}", True),
        ("anybody", "ghcr.io/public/tools:1", False),
        ("anybody", "registry.example/team/app:1", False),
        (None, "ghcr.io/public/tool:1", True),
        (None, "registry.example/team/app:1", False),
    ],
)
def test_a_volume_needs_one_rule_of_its_namespace_that_fits_its_image(
    namespace: str | None, image: str, allowed: bool
) -> None:
    policy = parse_policy(RULES, source="/etc/policy.toml")
    if allowed:
        policy.check(volume(image, namespace))
        return
    with pytest.raises(RefusedByPolicy, match=r"/etc/policy\.toml allows there: "):
        policy.check(volume(image, namespace))


def test_a_rule_may_be_for_volumes_of_no_pod() -> None:
    policy = parse_policy('[[rule]]\nnamespaces = [""]\nimages = ["*"]', source="f")
    policy.check(volume("app", None))
    with pytest.raises(RefusedByPolicy):
        policy.check(volume("app", "default"))


def test_a_refusal_says_what_would_be_allowed_there() -> None:
    policy = parse_policy(RULES, source="/etc/policy.toml")
    with pytest.raises(RefusedByPolicy) as caught:
        policy.check(volume("evil.io/x:1", "team-a"))
    assert str(caught.value) == (
        "evil.io/x:1: the node's policy does not allow it in namespace 'team-a'; "
        "/etc/policy.toml allows there: registry.example/team/*, docker.io/library/app:1; "
        "quay.io/* by digest; ghcr.io/public/tool[:@]*"
    )


def test_a_refusal_fits_into_a_message_whatever_the_rules() -> None:
    images = ", ".join(f'"registry-{number}.example/*"' for number in range(500))
    policy = parse_policy(f"[[rule]]\nimages = [{images}]\n" * 20, source="/etc/policy.toml")
    with pytest.raises(RefusedByPolicy) as caught:
        policy.check(volume("evil.io/x:1"))
    said = str(caught.value)[:MAX_MESSAGE_CHARACTERS]
    assert "/etc/policy.toml allows there: registry-0.example/*" in said
    only_others = parse_policy('[[rule]]\nnamespaces = ["b"]\nimages = ["*"]', source="f")
    with pytest.raises(RefusedByPolicy, match="allows there: nothing"):
        only_others.check(volume("evil.io/x:1"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "rule", id="empty"),
        pytest.param("rule = []", "length", id="no-rule"),
        pytest.param("[[rule]]", "images", id="no-images"),
        pytest.param("[[rule]]\nimages = []", "length", id="empty-images"),
        pytest.param('[[rule]]\nimages = "*"', "array", id="one-image"),
        pytest.param('[[rule]]\nimages = ["*"]\nnamespaces = []', "length", id="no-namespaces"),
        pytest.param('[[rule]]\nimages = ["*"]\ndigest_required = true', "digest_required",
                     id="unknown-key"),
        pytest.param('[[rule]]\nimages = ["*"]\ndigests_required = "no"', "bool", id="kind"),
        pytest.param('deny = true\n[[rule]]\nimages = ["*"]', "deny", id="unknown-key-on-top"),
        pytest.param("[[rule", "Expected", id="no-toml"),
        pytest.param("\udcff", "utf-8", id="no-text"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_kept_to_is_refused_by_its_name(
    text: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(errors.InvalidInput, match=f"--policy-file {path}: .*{words}"):
        load_policy(path)


def test_a_file_that_is_missing_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match=r"none\.toml: No such file"):
        load_policy(tmp_path / "none.toml")
    (tmp_path / "large.toml").write_text("#" * (1 << 20) + "\n")
    with pytest.raises(errors.InvalidInput, match="over 1048576 bytes"):
        load_policy(tmp_path / "large.toml")


def test_what_the_policy_refuses_no_registry_is_asked_for(node_of: NodeOf) -> None:
    with run_web(lambda _: Reply(404)) as web:
        node: Node = node_of(web.address)
        policy = parse_policy('[[rule]]\nimages = ["other.io/*"]', source="f")
        access = Access(node.settings, grace_s=GRACE_S, policy=policy)
        with pytest.raises(RefusedByPolicy, match="policy"):
            access.admit(volume(f"{web.address}/app:1"), RegistryConfig.empty())
        assert web.asked == []
        with pytest.raises(errors.ImageNotFound):
            node.access.admit(volume(f"{web.address}/app:1"), RegistryConfig.empty())
        assert web.asked != []
