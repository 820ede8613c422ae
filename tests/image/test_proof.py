"""Proof of access: what a registry says to whom, asked without a document."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.mirrors import Mirrors
from clipfs.image.reference import parse_reference
from clipfs.image.registry import Registry
from tests.image import documents as d
from tests.image.pulls import AT_ONCE, MANIFEST, PASSWORD, client, shelf
from tests.support import images
from tests.support.faulty_registry import relayed
from tests.support.registry import (
    RegistryServer,
    make_certificate,
    run_registry,
    write_htpasswd,
)
from tests.support.tokens import run_token_server
from tests.support.web import Asked, Reply, Responder, WebServer, run_web

DIGEST = Digest(d.digest(MANIFEST))
OTHER = Digest("sha256:" + "0" * 64)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("image")
    (home / "1").mkdir()
    images.write_layout(home / "oci", [images.layer(home / "1", home / "1.tar")])
    return home / "oci"


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[RegistryServer]:
    """It wants a name and a password, and has `team/app:1`."""
    home = tmp_path_factory.mktemp("private")
    htpasswd = write_htpasswd(home / "htpasswd", {"me": PASSWORD})
    with run_registry(home, htpasswd=htpasswd) as server:
        images.push(layout, server.address, "team/app:1", creds=f"me:{PASSWORD}")
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[RegistryServer]:
    """It wants a token, and has `team/app:1`; nobody gets one for `denied/app`."""
    certificate = make_certificate(tmp_path_factory.mktemp("certificate"))
    with (
        run_token_server(certificate, users={"me": PASSWORD}) as tokens,
        run_registry(tmp_path_factory.mktemp("guarded"), token=tokens.auth) as server,
    ):
        images.push(layout, server.address, "team/app:1", creds=f"me:{PASSWORD}")
        yield server


@pytest.fixture(params=["private", "guarded"])
def closed(request: pytest.FixtureRequest) -> RegistryServer:
    """Each of the two."""
    server: RegistryServer = request.getfixturevalue(request.param)
    return server


async def prove(
    server: RegistryServer, image: str, digest: Digest | None = None, *, login: bool = True
) -> Digest:
    config = RegistryConfig.single(server.address, "me", PASSWORD)
    plain = frozenset([server.address, "127.0.0.1"])
    async with Registry.open(
        config=config if login else RegistryConfig.empty(), plain_http=plain, retry=AT_ONCE
    ) as registry:
        return await registry.prove(parse_reference(f"{server.address}/{image}"), digest)


async def test_who_may_read_an_image_learns_its_digest_by_head_alone(
    closed: RegistryServer,
) -> None:
    before = len(closed.requests())
    digest = await prove(closed, "team/app:1")
    assert await prove(closed, "team/app:1", digest) == digest
    assert await prove(closed, f"team/app@{digest}") == digest
    asked = [one[:2] for one in closed.requests()[before:] if one[2] == 200]
    tag, by_digest = (f"/v2/team/app/manifests/{one}" for one in ("1", digest))
    assert asked == [("HEAD", tag), ("HEAD", by_digest), ("HEAD", by_digest)]


async def test_who_may_not_is_refused_whatever_he_knows_and_told_no_digest(
    closed: RegistryServer,
) -> None:
    digest = await prove(closed, "team/app:1")
    for known in (None, digest):
        with pytest.raises(errors.Unauthenticated, match=r"team/app:1: .*credentials") as caught:
            await prove(closed, "team/app:1", known, login=False)
        assert "sha256" not in str(caught.value)


async def test_a_wrong_password_is_shown_once_for_each_question(private: RegistryServer) -> None:
    shown = []

    def front(asked: Asked) -> Reply:
        shown.append(asked.headers.get("authorization"))
        return relayed(private.address, asked)

    with run_web(front) as web:
        config = RegistryConfig.single(web.address, "me", "wrong")
        plain = frozenset([web.address])
        async with Registry.open(config=config, plain_http=plain, retry=AT_ONCE) as registry:
            with pytest.raises(errors.Unauthenticated):
                await registry.prove(parse_reference(f"{web.address}/team/app:1"))
    assert [bool(one) for one in shown] == [False, True] * 2


async def test_a_token_server_that_refuses_is_access_denied(guarded: RegistryServer) -> None:
    with pytest.raises(errors.AccessDenied, match="denied/app:1"):
        await prove(guarded, "denied/app:1")


@pytest.mark.parametrize("known", [None, OTHER], ids=["tag", "digest"])
async def test_what_is_not_there_is_not_found(known: Digest | None, closed: RegistryServer) -> None:
    with pytest.raises(errors.ImageNotFound, match="team/app:2: no such image") as caught:
        await prove(closed, "team/app:2", known)
    assert OTHER not in str(caught.value)


async def proved(web: WebServer, version: str = ":1", digest: Digest | None = None) -> Digest:
    async with client(web) as registry:
        return await registry.prove(parse_reference(f"{web.address}/app{version}"), digest)


def to_head(reply: Reply) -> Responder:
    """A registry that answers a HEAD with this, else as it should."""
    good = shelf()
    return lambda asked: reply if asked.method == "HEAD" else good(asked)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(405), id="not-allowed"),
        pytest.param(Reply(501), id="not-implemented"),
        pytest.param(Reply(404), id="not-found"),
        pytest.param(Reply(200), id="no-digest"),
        pytest.param(Reply(200, {"Docker-Content-Digest": "sha512:00"}), id="other-digest-kind"),
    ],
)
@pytest.mark.parametrize("version", [":1", f"@{DIGEST}"], ids=["tag", "digest"])
async def test_a_registry_without_a_useful_head_is_asked_for_the_manifest(
    version: str, reply: Reply
) -> None:
    with run_web(to_head(reply)) as web:
        assert await proved(web, version) == DIGEST
    assert [one.method for one in web.asked] == ["HEAD", "GET"]


async def test_a_peer_that_says_200_to_everything_proves_nothing() -> None:
    with (
        run_web(lambda _: Reply(body=b"<html>welcome</html>")) as web,
        pytest.raises(errors.CorruptImage),
    ):
        await proved(web, f"@{DIGEST}")


async def test_a_head_that_names_another_digest_than_was_asked_for_is_corrupt() -> None:
    with (
        run_web(to_head(Reply(200, {"Docker-Content-Digest": OTHER}))) as web,
        pytest.raises(errors.CorruptImage, match=OTHER),
    ):
        await proved(web, f"@{DIGEST}")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        pytest.param(401, errors.Unauthenticated, id="401"),
        pytest.param(403, errors.AccessDenied, id="403"),
        pytest.param(404, errors.ImageNotFound, id="404"),
        pytest.param(429, errors.RegistryUnavailable, id="429"),
        pytest.param(503, errors.RegistryUnavailable, id="503"),
    ],
)
async def test_each_refusal_is_the_error_that_a_pull_would_end_with(
    status: int, kind: type[errors.ClipError]
) -> None:
    body = b'{"errors": [{"message": "in its words"}]}'
    with (
        run_web(lambda _: Reply(status, body=body)) as web,
        pytest.raises(kind, match="/app:1: ") as caught,
    ):
        await proved(web)
    is_busy = kind is errors.RegistryUnavailable
    assert ("in its words" in str(caught.value)) is not is_busy
    assert {one.method for one in web.asked} == ({"HEAD"} if is_busy else {"HEAD", "GET"})


async def test_a_head_stays_one_when_it_is_redirected_and_leaves_the_credential() -> None:
    headers: dict[str, str] = {"Docker-Content-Digest": DIGEST}
    with run_web(lambda _: Reply(headers=headers)) as store:

        def respond(asked: Asked) -> Reply:
            if "authorization" not in asked.headers:
                return Reply(401, {"WWW-Authenticate": 'Basic realm="r"'})
            return Reply(307, {"Location": f"http://{store.address}/elsewhere"})

        with run_web(respond) as web:
            config = RegistryConfig.single(web.address, "me", PASSWORD)
            plain = frozenset([web.address, store.address])
            async with Registry.open(config=config, plain_http=plain) as registry:
                name = parse_reference(f"{web.address}/app:1")
                assert await registry.prove(name) == DIGEST
    assert [(one.method, "authorization" in one.headers) for one in store.asked] == [
        ("HEAD", False)
    ]


MIRRORED = """\
[host."http://{mirror}"]
capabilities = {capabilities}
"""


@pytest.mark.parametrize(
    ("capabilities", "version", "answers"),
    [
        pytest.param('["pull", "resolve"]', ":1", True, id="it-may-say-what-a-tag-is"),
        pytest.param('["pull"]', ":1", False, id="it-may-not"),
        pytest.param('["pull"]', f"@{DIGEST}", True, id="it-may-serve-a-digest"),
        pytest.param('["resolve"]', f"@{DIGEST}", False, id="it-may-not-serve-one"),
    ],
)
async def test_a_mirror_proves_only_what_the_administrator_lets_it_serve(
    capabilities: str, version: str, answers: bool, tmp_path: Path
) -> None:
    good = to_head(Reply(200, {"Docker-Content-Digest": DIGEST}))
    with run_web(good) as mirror, run_web(lambda _: Reply(401)) as own:
        folder = tmp_path / own.address
        folder.mkdir()
        text = MIRRORED.format(mirror=mirror.address, capabilities=capabilities)
        (folder / "hosts.toml").write_text(text)
        async with Registry.open(
            config=RegistryConfig.empty(),
            plain_http=frozenset([own.address]),
            mirrors=Mirrors(tmp_path),
        ) as registry:
            reference = parse_reference(f"{own.address}/app{version}")
            if answers:
                assert await registry.prove(reference) == DIGEST
            else:
                with pytest.raises(errors.Unauthenticated):
                    await registry.prove(reference)
    assert bool(mirror.asked) is answers


async def test_the_credentials_of_every_host_that_may_be_asked_are_told(tmp_path: Path) -> None:
    (tmp_path / "h.io").mkdir()
    (tmp_path / "h.io/hosts.toml").write_text('[host."https://m.io"]')
    config = RegistryConfig.single("h.io/team", "me", PASSWORD)
    async with Registry.open(config=config, mirrors=Mirrors(tmp_path)) as registry:
        of_team = registry.credentials_for(parse_reference("h.io/team/app:1"))
        of_other = registry.credentials_for(parse_reference("h.io/other/app:1"))
    assert of_team["https://m.io/v2"] is None
    assert getattr(of_team["https://h.io/v2"], "username", None) == "me"
    assert list(of_other.values()) == [None, None]
