"""Which source a volume's credentials come from: the order, who may be asked, what is said."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.mirrors import Mirrors
from csi.asker import PATIENT, Asker
from csi.cluster.errors import ApiUnavailable
from csi.credentials.advice import with_advice
from csi.credentials.given import TOKENS_KEY, tokens_of
from csi.credentials.lending import Lending
from csi.credentials.node_config import NodeConfig
from csi.credentials.pull_secrets import PullSecrets
from csi.credentials.sources import (
    NOBODY,
    Found,
    GivenSecret,
    Source,
    SourceFailed,
    Sources,
    hosts_by,
)
from csi.volume import Volume
from tests.support.volumes import POD, Secrets, docker_config_of, volume_of

IMAGE = "h.io/team/app:1"


class Broken:
    """A source that should know, and does not answer."""

    name = "helper"

    def credentials(
        self, volume: Volume, *, anew: bool = False, asker: Asker = PATIENT
    ) -> Found | None:
        raise SourceFailed("credential provider helper ended with status 1")


class Place:
    """Sources in the real order; each knows a password of its own, where it is asked to."""

    def __init__(self, home: Path) -> None:
        self.secrets = Secrets()
        self.config = home / "config.json"
        self.config.write_bytes(b'{"auths": {}}')
        self.namespaces: list[str] = []
        self.mirrors = Mirrors(None)
        self.before_node: list[Broken] = []

    def sources(self) -> Sources:
        order: list[Source] = [
            GivenSecret(),
            PullSecrets(self.secrets, self.namespaces),
            *self.before_node,
            NodeConfig(self.config),
        ]
        return Sources(order, hosts_of=hosts_by(self.mirrors))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def password(config: RegistryConfig, host: str = "h.io") -> str | None:
    found = config.for_repository(host, "team/app")
    return found.password if found else None


def secret_of(**passwords: str) -> dict[str, str]:
    by_place = {key.replace("_", "."): one for key, one in passwords.items()}
    return {".dockerconfigjson": docker_config_of(by_place).decode()}


def test_sources_are_asked_in_order_and_the_first_that_has_any_is_the_only_one(
    place: Place,
) -> None:
    place.namespaces = ["team-a"]
    place.secrets.by_pod["team-a/web"] = [docker_config_of({"h.io": "pull", "b.io": "x"})]
    place.config.write_bytes(docker_config_of({"h.io": "node", "c.io": "y"}))
    given = {"username": "user", "password": "own"}
    for secrets, source, expected in (
        (given, "nodePublishSecretRef", "own"),
        ({}, "imagePullSecrets", "pull"),
    ):
        chosen = place.sources().choose(volume_of(IMAGE, secrets=secrets))
        assert (chosen.source, password(chosen.config)) == (source, expected)
        assert password(chosen.config, "c.io") is None, "nothing of another source comes along"
    assert len(place.secrets.asked) == 1
    place.secrets.by_pod.clear()
    chosen = place.sources().choose(volume_of(IMAGE))
    assert (chosen.source, password(chosen.config)) == ("the node's docker config", "node")
    assert chosen.can_be_asked_again


def test_a_secret_for_another_registry_is_not_the_volumes_source(place: Place) -> None:
    place.config.write_bytes(docker_config_of({"h.io": "node"}))
    chosen = place.sources().choose(volume_of(IMAGE, secrets=secret_of(other_io="x")))
    assert password(chosen.config) == "node"
    assert password(chosen.config, "other.io") is None


def test_where_nobody_has_any_the_image_is_asked_for_by_nobody(place: Place) -> None:
    chosen = place.sources().choose(volume_of("other.io/app:1"))
    assert chosen.source == NOBODY
    assert not chosen.config.by_place


def test_credentials_for_a_mirror_alone_count_and_come_whole(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "mirrors/h.io"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text('[host."https://mirror.example:5000"]\n')
    volume = volume_of(IMAGE, secrets=secret_of(**{"mirror_example:5000": "m", "z_io": "z"}))
    assert place.sources().choose(volume).source == NOBODY
    place.mirrors = Mirrors(tmp_path / "mirrors")
    chosen = place.sources().choose(volume)
    assert password(chosen.config, "mirror.example:5000") == "m"
    assert password(chosen.config, "z.io") == "z"


@pytest.mark.parametrize(
    ("allowed", "is_asked"),
    [([], False), (["team-b"], False), (["team-"], False), (["team-a"], True), (["*"], True)],
    ids=str,
)
def test_pull_secrets_are_read_in_the_namespaces_that_are_allowed_and_no_others(
    place: Place, allowed: Sequence[str], is_asked: bool
) -> None:
    place.namespaces = list(allowed)
    place.secrets.by_pod["team-a/web"] = [docker_config_of({"h.io": "pull"})]
    chosen = place.sources().choose(volume_of(IMAGE))
    assert (place.secrets.asked == [POD]) == is_asked
    assert (chosen.source == "imagePullSecrets") == is_asked


def test_without_a_pod_no_secret_is_asked_for(place: Place) -> None:
    place.namespaces = ["*"]
    assert place.sources().choose(volume_of(IMAGE, pod=None)).source == NOBODY
    assert place.secrets.asked == []


def test_of_several_pull_secrets_the_first_ones_word_holds(place: Place) -> None:
    place.namespaces = ["*"]
    place.secrets.by_pod["team-a/web"] = [
        docker_config_of({"h.io": "pods"}),
        docker_config_of({"h.io": "accounts", "h.io/team": "nearer"}),
        docker_config_of({"h.io/team": "late"}),
    ]
    chosen = place.sources().choose(volume_of(IMAGE))
    assert password(chosen.config) == "nearer"
    elsewhere = chosen.config.for_repository("h.io", "x")
    assert elsewhere is not None
    assert elsewhere.password == "pods"


def test_of_several_pull_secrets_for_one_registry_each_is_to_be_tried(place: Place) -> None:
    """Those of the longest place first, as the kubelet has it, and what is the same once."""
    place.namespaces = ["*"]
    place.secrets.by_pod["team-a/web"] = [
        docker_config_of({"h.io": "bad", "c.io": "other"}),
        docker_config_of({"h.io": "good", "h.io/team": "near"}),
        docker_config_of({"h.io": "bad"}),
    ]
    tried = [one.config for one in place.sources().choose(volume_of(IMAGE)).each()]
    assert [password(config) for config in tried] == ["near", "bad", "good"]
    assert {password(config, "c.io") for config in tried} == {"other"}


def test_a_server_is_lent_each_of_several_pull_secrets(place: Place) -> None:
    place.namespaces = ["*"]
    secrets = [docker_config_of({"h.io": one}) for one in ("old", "new")]
    place.secrets.by_pod["team-a/web"] = secrets
    lending, image = Lending(place.sources()), Digest("sha256:" + "a" * 64)
    lending.add(image, volume_of(IMAGE))
    tried: list[RegistryConfig] = []
    while (lent := lending.another(image, held="", tried=tried, anew=True)) is not None:
        tried.append(lent.config)
    assert [password(config) for config in tried] == ["old", "new"]


@pytest.mark.parametrize(
    ("key", "image", "is_for_it"),
    [
        ("*.example.com", "reg.example.com/team/app:1", True),
        ("https://*.example.com/v1/", "reg.example.com/team/app:1", True),
        ("*.example.com:5000", "reg.example.com:5000/team/app:1", True),
        ("r*.example.com/team", "reg.example.com/team/app:1", True),
        ("*.example.com", "reg.example.com:5000/team/app:1", False),
        ("*.example.com", "example.com/team/app:1", False),
        ("*.example.com/other", "reg.example.com/team/app:1", False),
    ],
)
def test_a_key_may_stand_for_many_registries(
    key: str, image: str, is_for_it: bool, place: Place
) -> None:
    place.namespaces = ["*"]
    place.secrets.by_pod["team-a/web"] = [docker_config_of({key: "glob"})]
    chosen = place.sources().choose(volume_of(image))
    assert (chosen.source == "imagePullSecrets") == is_for_it
    assert password(chosen.config, image.partition("/")[0]) == ("glob" if is_for_it else None)
    place.secrets.by_pod.clear()
    place.config.write_bytes(docker_config_of({key: "node"}))
    assert (place.sources().choose(volume_of(image)).source != NOBODY) == is_for_it


def test_a_key_for_many_registries_counts_for_a_mirror(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "mirrors/h.io"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text('[host."https://mirror.example:5000"]\n')
    place.mirrors = Mirrors(tmp_path / "mirrors")
    volume = volume_of(IMAGE, secrets=secret_of(**{"*_example:5000": "m"}))
    assert password(place.sources().choose(volume).config, "mirror.example:5000") == "m"


def test_a_pull_secret_that_cannot_be_read_is_named_and_not_passed_by(place: Place) -> None:
    place.namespaces = ["*"]
    place.secrets.by_pod["team-a/web"] = [docker_config_of({}), b'{"auths": "hush"}']
    with pytest.raises(errors.InvalidInput, match="imagePullSecret 2 of pod team-a/web") as caught:
        place.sources().choose(volume_of(IMAGE))
    assert "hush" not in str(caught.value)


def test_a_node_config_that_is_renewed_is_seen_without_a_restart(place: Place) -> None:
    sources = place.sources()
    for word in ("old", "new"):
        place.config.write_bytes(docker_config_of({"h.io": word}))
        assert password(sources.choose(volume_of(IMAGE)).config) == word


def test_a_source_that_fails_is_passed_by_and_remembered(place: Place) -> None:
    place.before_node = [Broken()]
    place.config.write_bytes(docker_config_of({"h.io": "node"}))
    chosen = place.sources().choose(volume_of(IMAGE))
    assert password(chosen.config) == "node"
    assert chosen.failed == ("credential provider helper ended with status 1",)


def test_while_the_api_server_is_away_no_later_source_is_shown_in_its_place(place: Place) -> None:
    place.namespaces, place.secrets.is_away = ["*"], True
    place.config.write_bytes(docker_config_of({"h.io": "node"}))
    chosen = place.sources().choose(volume_of(IMAGE))
    assert (chosen.source, chosen.config.by_place) == (NOBODY, {})
    assert chosen.unasked == "imagePullSecrets: the API server does not answer"
    own = volume_of(IMAGE, secrets={"username": "user", "password": "own"})
    assert password(place.sources().choose(own).config) == "own", "who has its own needs no other"
    place.namespaces = ["team-b"]
    assert password(place.sources().choose(volume_of(IMAGE)).config) == "node"


@pytest.mark.parametrize(
    "kind", [errors.Unauthenticated, errors.AccessDenied, errors.ImageNotFound]
)
def test_what_a_registry_hides_while_the_api_server_is_away_is_not_final(
    kind: type[errors.ClipError], place: Place
) -> None:
    place.namespaces, place.secrets.is_away = ["*"], True
    volume = volume_of(IMAGE)
    chosen = place.sources().choose(volume)
    told = with_advice(kind(f"{IMAGE}: the words"), volume, chosen, namespaces=place.namespaces)
    assert isinstance(told, ApiUnavailable)
    assert str(told) == (
        "h.io/team/app:1: the words; it was asked without credentials, as those that the pod may "
        "have cannot be looked up now (imagePullSecrets: the API server does not answer); the "
        "kubelet tries again by itself"
    )


def test_a_refusal_of_a_later_sources_credentials_says_which_setting_gives_the_pods(
    place: Place,
) -> None:
    place.config.write_bytes(docker_config_of({"h.io": "node"}))
    setting = (
        ", or let the driver read the pod's imagePullSecrets by adding its namespace team-a to "
        "podPullSecrets.namespaces"
    )
    told = refused(place, volume_of(IMAGE), errors.Unauthenticated)
    assert "came from the node's docker config: correct them there, or let that account" in told
    assert told.endswith(setting)
    assert refused(place, volume_of(IMAGE), errors.AccessDenied).endswith(setting)
    place.namespaces = ["team-a"]
    assert "podPullSecrets" not in refused(place, volume_of(IMAGE), errors.Unauthenticated)


def refused(place: Place, volume: Volume, kind: type[errors.ClipError]) -> str:
    error = kind(f"{volume.image}: the registry wants credentials, or other ones")
    told = with_advice(error, volume, place.sources().choose(volume), namespaces=place.namespaces)
    assert type(told) is kind
    assert "\n" not in str(told)
    return str(told)


def test_a_refusal_without_credentials_says_which_setting_to_change(place: Place) -> None:
    assert refused(place, volume_of(IMAGE), errors.Unauthenticated) == (
        "h.io/team/app:1: the registry wants credentials, or other ones: no credentials: give the "
        "volume a nodePublishSecretRef, or let the driver read the pod's imagePullSecrets by "
        "adding its namespace team-a to podPullSecrets.namespaces"
    )
    place.namespaces = ["team-a"]
    assert refused(place, volume_of(IMAGE), errors.AccessDenied).endswith(
        ", or the pod or its service account an imagePullSecret for h.io"
    )
    assert refused(place, volume_of(IMAGE, pod=None), errors.Unauthenticated).endswith(
        "give the volume a nodePublishSecretRef"
    )


def test_a_refusal_of_credentials_says_whose_they_are_and_who_failed(place: Place) -> None:
    place.before_node = [Broken()]
    own = volume_of(IMAGE, secrets={"username": "user", "password": "hush-word"})
    told = refused(place, own, errors.Unauthenticated)
    assert told.endswith(
        "; the credentials came from nodePublishSecretRef: correct them there, "
        "or let that account pull"
    )
    assert "hush-word" not in told
    told = refused(place, volume_of(IMAGE), errors.Unauthenticated)
    assert (
        ": no credentials that can be used: credential provider helper ended with status 1; "
        "correct that, or give the volume a nodePublishSecretRef"
    ) in told


def test_other_errors_stay_as_they_are(place: Place) -> None:
    error = errors.ImageNotFound("h.io/team/app:1: no such image")
    volume = volume_of(IMAGE)
    assert with_advice(error, volume, place.sources().choose(volume), namespaces=[]) is error


def test_tokens_are_believed_only_where_the_kubelet_is_known_to_send_them() -> None:
    tokens = {"aud": "tok-en-word"}
    assert volume_of(IMAGE, tokens=tokens, token_requests=False).tokens == {}
    volume = volume_of(IMAGE, tokens=tokens)
    assert volume.tokens["aud"].text == "tok-en-word"
    assert volume.attributes == {"image": IMAGE}, "and none is written to the volume's record"


def test_tokens_may_come_in_the_secrets_and_then_those_of_the_context_do_not_count() -> None:
    """CSIDriver serviceAccountTokenInSecrets; what is in the context is the pod's author's then."""
    said = '{"aud": {"token": "tok-en-word", "expirationTimestamp": "2099-01-01T00:00:00Z"}}'
    forged = {"aud": "forged", "other": "forged"}
    volume = volume_of(IMAGE, secrets={TOKENS_KEY: said}, tokens=forged)
    assert {audience: one.text for audience, one in volume.tokens.items()} == {"aud": "tok-en-word"}
    assert not volume.credentials.by_place
    own = {"username": "user", "password": "own", TOKENS_KEY: said}
    assert password(volume_of(IMAGE, secrets=own).credentials) == "own"
    assert volume_of(IMAGE, secrets={TOKENS_KEY: said}, token_requests=False).tokens == {}


@pytest.mark.parametrize(
    "text", ["hush", "[]", '{"a": "hush"}', '{"a": {"token": "hush"}}', '{"a": 1}'], ids=str
)
def test_tokens_that_are_not_the_kubelets_json_are_refused_unquoted(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match=r"serviceAccount\.tokens") as caught:
        tokens_of({TOKENS_KEY: text}, {})
    assert "hush" not in str(caught.value)


def test_no_repr_shows_a_secret(place: Place) -> None:
    place.config.write_bytes(docker_config_of({"h.io": "hush-word"}))
    own = volume_of(
        IMAGE,
        secrets={"username": "user", "password": "hush-word"},
        tokens={"aud": "hush-word"},
    )
    for volume in (own, volume_of(IMAGE)):
        chosen = place.sources().choose(volume)
        assert password(chosen.config) == "hush-word"
        shown = repr([volume, chosen, chosen.config, place.sources()]) + json.dumps(
            volume.attributes
        )
        assert "hush-word" not in shown


def test_what_a_volume_s_own_secret_has_in_place_of_credentials_is_told(place: Place) -> None:
    config = json.dumps({"auths": {"h.io": {"registrytoken": "hush-word"}}})
    own = volume_of(IMAGE, secrets={".dockerconfigjson": config})
    told = refused(place, own, errors.Unauthenticated)
    assert (
        ": no credentials that can be used: .dockerconfigjson of the volume's secret has a "
        "registrytoken for h.io, which is not used; correct that, or "
    ) in told
    assert "hush-word" not in told


def test_what_is_wrong_with_pull_secrets_is_told_to_who_misses_them_alone(place: Place) -> None:
    place.namespaces = ["*"]
    place.secrets.lacks = ["pull secret a of pod team-a/web is not there"]
    place.secrets.by_pod["team-a/web"] = [b'{"credsStore": "sh"}']
    assert (
        ": no credentials that can be used: pull secret a of pod team-a/web is not there; "
        "imagePullSecret 1 of pod team-a/web leaves credentials to a credsStore, which is not "
        "asked; correct that, or "
    ) in refused(place, volume_of(IMAGE), errors.Unauthenticated)
    place.secrets.by_pod["team-a/web"] = [docker_config_of({"h.io": "word"})]
    assert place.sources().choose(volume_of(IMAGE)).failed == ()
