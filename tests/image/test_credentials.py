"""Credentials: the forms they come in, whose they are, and that nothing prints them."""

import base64
import json
import traceback
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.credentials import (
    MAX_CONFIG_BYTES,
    Credentials,
    RegistryConfig,
    load_registry_config,
)

SECRET = "pa:ss-w0rd"
USER = {"username": "me", "password": SECRET}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def config(**auths: object) -> RegistryConfig:
    return RegistryConfig.from_json(json.dumps({"auths": auths}).encode(), source="test")


@pytest.mark.parametrize(
    "auth",
    [
        pytest.param({"auth": encoded(f"me:{SECRET}")}, id="docker-login"),
        pytest.param({"auth": encoded(f"me:{SECRET}\0\0")}, id="padded"),
        pytest.param({"auth": encoded(f"me:{SECRET}").rstrip("=")}, id="unpadded"),
        pytest.param(
            {"auth": f"{encoded(f'me:{SECRET}')[:6]}\r\n{encoded(f'me:{SECRET}')[6:]}\n"},
            id="lines",
        ),
        pytest.param(USER, id="kubectl-create-secret"),
        pytest.param({**USER, "auth": encoded(f"me:{SECRET}"), "email": "e"}, id="both"),
    ],
)
def test_a_password_is_found_in_every_form_of_an_entry(auth: dict[str, str]) -> None:
    found = config(host=auth).for_repository("host", "a")
    assert found == Credentials(username="me", password=SECRET)


def test_an_identity_token_is_kept_beside_the_name() -> None:
    found = config(host={"auth": encoded("me:"), "identitytoken": SECRET}).for_repository(
        "host", "a"
    )
    assert found == Credentials(username="me", password="", identity_token=SECRET)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{}", id="nothing"),
        pytest.param('{"auths": null}', id="null"),
        pytest.param('{"auths": {"host": {}}, "credsStore": "desktop"}', id="kept-by-a-helper"),
        pytest.param('{"auths": {"host": null}}', id="null-entry"),
    ],
)
def test_a_config_without_a_secret_is_a_config_without_credentials(text: str) -> None:
    found = RegistryConfig.from_json(text.encode(), source="test")
    assert found.for_repository("host", "a") is None


@pytest.mark.parametrize(
    ("key", "registry", "repository"),
    [
        pytest.param("host:5000", "host:5000", "a/b", id="port"),
        pytest.param("https://host", "host", "a", id="https"),
        pytest.param("http://host/v1/", "host", "a", id="v1"),
        pytest.param("https://host/v2/", "host", "a", id="v2"),
        pytest.param("https://index.docker.io/v1/", "docker.io", "library/a", id="docker-login"),
        pytest.param("index.docker.io", "docker.io", "library/a", id="index"),
        pytest.param("docker.io", "docker.io", "library/a", id="hub"),
        pytest.param("registry-1.docker.io", "docker.io", "library/a", id="registry-1"),
        pytest.param("docker.io/team", "docker.io", "team/a", id="hub-path"),
        pytest.param("host/team/v1", "host", "team/v1/a", id="a-repository-named-v1"),
    ],
)
def test_a_place_is_known_by_each_of_its_names(key: str, registry: str, repository: str) -> None:
    assert config(**{key: USER}).for_repository(registry, repository) is not None


@pytest.mark.parametrize(
    ("key", "registry", "repository"),
    [
        pytest.param("host", "host:5000", "a", id="other-port"),
        pytest.param("host", "evil.host", "a", id="subdomain"),
        pytest.param("host", "host.evil", "a", id="longer-host"),
        pytest.param("host/team", "host", "teams/a", id="longer-name"),
        pytest.param("host/team", "host", "a", id="outside-the-path"),
        pytest.param("host/team/v1", "host", "team/a", id="outside-a-path-named-v1"),
        pytest.param("docker.io", "ghcr.io", "library/a", id="not-the-hub"),
    ],
)
def test_credentials_go_nowhere_else(key: str, registry: str, repository: str) -> None:
    assert config(**{key: USER}).for_repository(registry, repository) is None


def test_the_longest_path_wins() -> None:
    users = {place: {**USER, "username": place} for place in ("h", "h/a", "h/a/b")}
    found = config(**users)
    asked = ["x", "a", "a/x", "a/b", "a/b/c", "a/bc"]
    names = [
        (found.for_repository("h", one) or Credentials(username="", password="")).username
        for one in asked
    ]
    assert names == ["h", "h/a", "h/a", "h/a/b", "h/a/b", "h/a"]


def test_of_two_configs_the_nearer_one_s_word_holds() -> None:
    node = config(a={**USER, "username": "node"}, b={**USER, "username": "node"})
    pod = config(a={**USER, "username": "pod"})
    merged = node.merged(pod)
    names = [
        (merged.for_repository(one, "x") or Credentials(username="", password="")).username
        for one in "ab"
    ]
    assert names == ["pod", "node"]


def test_a_config_written_for_another_process_is_read_as_itself() -> None:
    given = config(host=USER, other={"auth": encoded("me:"), "identitytoken": SECRET})
    assert RegistryConfig.from_json(given.to_json(), source="test") == given


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="list"),
        pytest.param(SECRET.encode(), id="bare-secret"),
        pytest.param(b'{"auths": [1]}', id="auths-list"),
        pytest.param(b'{"auths": {"h": {"password": 5}}}', id="number"),
        pytest.param(b'{"auths": {"h": {"auth": "pa:ss-w0rd"}}}', id="not-base64"),
        pytest.param(b'{"auths": {"h": {"auth": "!!!"}}}', id="no-letter-of-base64"),
        pytest.param(b'{"auths": {"h": {"auth": "bWU="}}}', id="no-password"),
        pytest.param('{"auths": {"h": {"auth": "pa:ss-w0rdé"}}}'.encode(), id="not-ascii"),
        pytest.param(b'{"auths": {"h": {"auth": "/////w=="}}}', id="base64-of-no-text"),
        pytest.param(b"pa:ss-w0rd\xff", id="not-utf-8"),
        pytest.param(b'{"pa:ss-w0rd":' + b"[" * 100_000, id="deep"),
    ],
)
def test_a_broken_config_is_named_and_never_quoted(text: bytes) -> None:
    with pytest.raises(errors.InvalidInput, match="the-file is not a docker config") as caught:
        RegistryConfig.from_json(text, source="the-file")
    assert "w0rd" not in "".join(traceback.format_exception(caught.value))


def test_an_auth_that_is_none_is_named_by_its_place() -> None:
    with pytest.raises(errors.InvalidInput, match=r"auth of 'host\.io' is not the base64 of user:"):
        config(**{"https://host.io/v1/": {"auth": "!!!"}})


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"auths": {"https://h.io": {"registrytoken": SECRET}}},
         "the-file has a registrytoken for h.io, which is not used"),
        ({"credHelpers": {"h.io": "sh"}},
         "the-file leaves h.io to a program of credHelpers, which is not run"),
        ({"auths": {"h.io": {}}, "credsStore": "sh"},
         "the-file leaves credentials to a credsStore, which is not asked"),
        ({"auths": {"g.io": {"registrytoken": SECRET}}}, None),
        ({"credHelpers": {"g.io": "sh"}}, None),
        ({"auths": {"h.io": {}}}, None),
    ],
    ids=str,
)  # fmt: skip  # one row a config
def test_what_is_there_in_place_of_credentials_is_told_to_who_misses_them(
    said: dict[str, object], told: str | None
) -> None:
    found = RegistryConfig.from_json(json.dumps(said).encode(), source="the-file")
    assert found.for_repository("h.io", "a") is None
    assert found.unused_for("h.io", "a") == told


def test_no_repr_shows_a_secret() -> None:
    known = config(host=USER, other={"auth": encoded("me:"), "identitytoken": SECRET})
    shown = repr(known) + str(known) + repr(dict(known.by_place))
    assert SECRET not in shown
    assert "me" in shown


def test_a_file_is_read_and_its_troubles_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(errors.InvalidInput, match=r"config\.json: No such file"):
        load_registry_config(path)
    path.write_bytes(b" " * MAX_CONFIG_BYTES + b"{}")
    with pytest.raises(errors.InvalidInput, match="is over"):
        load_registry_config(path)
    path.write_text(json.dumps({"auths": {"host": USER}}))
    assert load_registry_config(path).for_repository("host", "a") is not None
