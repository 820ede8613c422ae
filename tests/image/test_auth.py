"""Challenges and the headers that answer them."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.image.auth import Challenge, basic, bearer, parse_challenges
from clipfs.image.credentials import Credentials


def of(scheme: str, **parameters: str) -> Challenge:
    return Challenge(scheme=scheme, parameters=parameters)


BEARER = of("bearer", realm="https://a/t", service="s", scope="repository:x/y:pull,push")


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        pytest.param('Basic realm="r"', [of("basic", realm="r")], id="basic"),
        pytest.param("Basic", [of("basic")], id="bare"),
        pytest.param(
            'Bearer realm="https://a/t",service="s",scope="repository:x/y:pull,push"',
            [BEARER],
            id="bearer",
        ),
        pytest.param(
            ' bEARER  Realm = "https://a/t" , SERVICE=s ,scope="repository:x/y:pull,push"',
            [BEARER],
            id="spaces-and-capitals",
        ),
        pytest.param('Basic realm="a \\"b\\" \\\\"', [of("basic", realm='a "b" \\')], id="escapes"),
        pytest.param(
            'Negotiate, Basic realm="r", Bearer realm="b"',
            [of("negotiate"), of("basic", realm="r"), of("bearer", realm="b")],
            id="several",
        ),
        pytest.param('Bearer realm="a",realm="b"', [of("bearer", realm="a")], id="said-twice"),
        pytest.param('Bearer realm="open', [of("bearer")], id="open-quote"),
        pytest.param("", [], id="empty"),
        pytest.param('realm="r"', [], id="no-scheme"),
        pytest.param("\x80\x9b", [], id="no-token"),
    ],
)
def test_a_challenge_is_read_as_far_as_it_goes(header: str, challenges: list[Challenge]) -> None:
    assert parse_challenges(header) == challenges


PIECES = st.sampled_from(["Bearer", "Basic", "realm", "=", '"', "\\", ",", " ", "x", "\t", "é"])


@settings(deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join))
def test_any_header_is_read_to_an_end(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower() != ""


def test_basic_credentials_are_sent_as_utf_8() -> None:
    scheme, _, word = basic(Credentials(username="ü", password="p:w")).partition(" ")
    assert (scheme, base64.b64decode(word).decode()) == ("Basic", "ü:p:w")


@pytest.mark.parametrize("name", ["token", "access_token"])
def test_a_token_server_says_token_or_access_token(name: str) -> None:
    assert bearer(b'{"%s": "abc", "expires_in": 1}' % name.encode(), of="x") == "Bearer abc"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>", id="html"),
        pytest.param(b"\xff", id="no-utf-8"),
        pytest.param(b"{}", id="no-token"),
        pytest.param(b'{"token": ""}', id="empty-token"),
        pytest.param(b'{"token": 1}', id="number"),
        pytest.param(b'{"token": "a\\r\\nHost: b"}', id="header-injection"),
        pytest.param('{"token": "é"}'.encode(), id="no-ascii"),
        pytest.param(b'{"x":' + b"[" * 100_000, id="deep"),
    ],
)
def test_an_answer_without_a_usable_token_is_a_broken_token_server(body: bytes) -> None:
    with pytest.raises(errors.RegistryUnavailable, match="the token server's answer"):
        bearer(body, of="x")
