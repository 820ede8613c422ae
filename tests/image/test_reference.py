"""References: what a name means, and which names are refused."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.image.reference import Reference, parse_reference

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        pytest.param("ubuntu", "docker.io", "library/ubuntu", "latest", None, id="short"),
        pytest.param("ubuntu:24.04", "docker.io", "library/ubuntu", "24.04", None, id="short-tag"),
        pytest.param("team/app", "docker.io", "team/app", "latest", None, id="hub-user"),
        pytest.param("team/sub/app", "docker.io", "team/sub/app", "latest", None, id="hub-deep"),
        pytest.param("docker.io/app", "docker.io", "library/app", "latest", None, id="hub-host"),
        pytest.param("index.docker.io/a/b", "docker.io", "a/b", "latest", None, id="hub-index"),
        pytest.param(
            "registry-1.docker.io/a", "docker.io", "library/a", "latest", None, id="hub-1"
        ),
        pytest.param("ghcr.io/app", "ghcr.io", "app", "latest", None, id="host"),
        pytest.param("localhost/app", "localhost", "app", "latest", None, id="localhost"),
        pytest.param("localhost:5000/app", "localhost:5000", "app", "latest", None, id="port"),
        pytest.param("node:5000/a/b:1", "node:5000", "a/b", "1", None, id="port-and-tag"),
        pytest.param("node:5000", "docker.io", "library/node", "5000", None, id="tag-like-a-port"),
        pytest.param("Host/app", "Host", "app", "latest", None, id="capital-makes-a-host"),
        pytest.param("10.0.0.1/app", "10.0.0.1", "app", "latest", None, id="ipv4"),
        pytest.param("[::1]:5000/app", "[::1]:5000", "app", "latest", None, id="ipv6-port"),
        pytest.param("[fd00::1]/app", "[fd00::1]", "app", "latest", None, id="ipv6"),
        pytest.param(f"app@{DIGEST}", "docker.io", "library/app", None, DIGEST, id="digest"),
        pytest.param(f"h.io/a:1@{DIGEST}", "h.io", "a", "1", DIGEST, id="tag-and-digest"),
        pytest.param("g/a-b__c.d_e--f", "docker.io", "g/a-b__c.d_e--f", "latest", None, id="signs"),
        pytest.param("app:_A.b-C", "docker.io", "library/app", "_A.b-C", None, id="tag-signs"),
        pytest.param("a:" + "t" * 128, "docker.io", "library/a", "t" * 128, None, id="longest-tag"),
    ],
)
def test_a_name_means_one_image(
    text: str, registry: str, repository: str, tag: str | None, digest: Digest | None
) -> None:
    assert parse_reference(text) == Reference(
        registry=registry, repository=repository, tag=tag, digest=digest
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "the repository takes", id="empty"),
        pytest.param("App", "the repository takes", id="capital"),
        pytest.param("a..b", "the repository takes", id="two-dots"),
        pytest.param("a___b", "the repository takes", id="three-underscores"),
        pytest.param("a/", "the repository takes", id="trailing-slash"),
        pytest.param("a//b", "the repository takes", id="empty-part"),
        pytest.param("h.io/", "the repository takes", id="host-only"),
        pytest.param("h.io/../../etc", "the repository takes", id="climbing"),
        pytest.param("h.io/a?x=1", "the repository takes", id="query"),
        pytest.param("h.io/a%2fb", "the repository takes", id="escape"),
        pytest.param("http://h.io/a", "has no scheme", id="scheme"),
        pytest.param("https://h.io:5000/a:1", "has no scheme", id="scheme-and-port"),
        pytest.param("u@h.io/a", "what follows @", id="userinfo"),
        pytest.param("h.io:0/a", "is not a registry host", id="port-zero"),
        pytest.param("h.io:65536/a", "is not a registry host", id="port-over"),
        pytest.param("h.io:port/a", "is not a registry host", id="port-name"),
        pytest.param("h_i.o/a", "is not a registry host", id="host-underscore"),
        pytest.param("-h.io/a", "is not a registry host", id="host-dash"),
        pytest.param("h..io/a", "is not a registry host", id="host-empty-label"),
        pytest.param("l" * 64 + ".io/a", "is not a registry host", id="host-long-label"),
        pytest.param("a:", "is not a tag", id="empty-tag"),
        pytest.param("a:-b", "is not a tag", id="tag-dash"),
        pytest.param("a:" + "t" * 129, "is not a tag", id="long-tag"),
        pytest.param("a:b:c", "is not a tag", id="two-tags"),
        pytest.param("a:ä", "is not a tag", id="tag-umlaut"),
        pytest.param("a@", "what follows @", id="empty-digest"),
        pytest.param(f"a@sha512:{HEX}{HEX}", "what follows @", id="sha512"),
        pytest.param(f"a@sha256:{HEX.upper()}", "what follows @", id="capital-digest"),
        pytest.param(f"a@{DIGEST}0", "what follows @", id="long-digest"),
        pytest.param(f"@{DIGEST}", "the repository takes", id="digest-only"),
        pytest.param("h.io/" + "a" * 251, "longer than 255", id="long-name"),
        pytest.param("app\n", "the repository takes", id="newline"),
        pytest.param(" app", "the repository takes", id="space"),
        pytest.param("app\x00", "the repository takes", id="nul"),
    ],
)
def test_what_is_no_reference_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(errors.InvalidInput, match=reason) as caught:
        parse_reference(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


HOSTS = st.one_of(
    st.just("docker.io"),
    st.from_regex(r"[a-z0-9]{1,9}(\.[a-z0-9]{1,9}){1,3}", fullmatch=True),
    st.from_regex(r"(localhost|[A-Za-z0-9]{1,9}|\[::1\]):[1-9][0-9]{0,3}", fullmatch=True),
)
REPOSITORIES = st.from_regex(r"[a-z0-9]{1,5}([._/-][a-z0-9]{1,5}){1,3}", fullmatch=True)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
DIGESTS = st.binary(min_size=32, max_size=32).map(lambda one: f"sha256:{one.hex()}")


@settings(deadline=None)
@given(HOSTS, REPOSITORIES, st.none() | TAGS, st.none() | DIGESTS)
def test_a_reference_as_text_means_itself(
    host: str, repository: str, tag: str | None, digest: str | None
) -> None:
    text = f"{host}/{repository}"
    text += f":{tag}" if tag else ""
    text += f"@{digest}" if digest else ""
    found = parse_reference(text)
    assert parse_reference(str(found)) == found
    assert (found.registry, found.digest) == (host, digest)
    assert found.version == (digest or tag or "latest")


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_invalid_input(text: str) -> None:
    with contextlib.suppress(errors.InvalidInput):
        found = parse_reference(text)
        assert parse_reference(str(found)) == found


def test_a_digest_beside_a_tag_decides_what_is_asked_for() -> None:
    assert parse_reference(f"a:1@{DIGEST}").version == DIGEST
    assert str(parse_reference("a:1").with_digest(Digest(DIGEST))).endswith(f"a:1@{DIGEST}")
