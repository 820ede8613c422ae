"""Mirrors by containerd's `hosts.toml`: who is asked, in which order, and with what."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.mirrors import ITSELF, Host, Mirrors, parse_hosts
from clipfs.image.model import Image
from clipfs.image.platform import Platform
from clipfs.image.reference import parse_reference
from clipfs.image.registry import Registry
from tests.image import documents as d
from tests.image.pulls import AT_ONCE, BABBLE, CONFIG, MANIFEST, PASSWORD, shelf
from tests.support.registry import make_certificate
from tests.support.web import Asked, Reply, Responder, WebServer, run_web

MIRROR = Host(base="https://m.io/v2")


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        pytest.param("", (ITSELF,), id="empty"),
        pytest.param('[host."https://m.io"]', (MIRROR, ITSELF), id="one-mirror"),
        pytest.param('[host."m.io"]', (MIRROR, ITSELF), id="https-unless-it-says-otherwise"),
        pytest.param('[host."http://m.io:5000"]', (Host(base="http://m.io:5000/v2"), ITSELF),
                     id="plain-http"),
        pytest.param('[host."https://m.io/v2/"]', (MIRROR, ITSELF), id="path-with-v2"),
        pytest.param('[host."https://m.io/hub"]', (Host(base="https://m.io/hub/v2"), ITSELF),
                     id="path"),
        pytest.param('[host."https://m.io/hub"]\noverride_path = true',
                     (Host(base="https://m.io/hub"), ITSELF), id="path-that-overrides"),
        pytest.param('server = "https://m.io"', (MIRROR,), id="server-instead-of-the-registry"),
        pytest.param('server = "https://z.io"\n[host."https://m.io"]\n[host."https://a.io"]',
                     (MIRROR, Host(base="https://a.io/v2"), Host(base="https://z.io/v2")),
                     id="order-of-the-file-then-server"),
        pytest.param('[host."https://m.io"]\ncapabilities = ["pull"]',
                     (Host(base="https://m.io/v2", may_resolve=False), ITSELF), id="pull-only"),
        pytest.param('[host."https://m.io"]\ncapabilities = ["resolve"]',
                     (Host(base="https://m.io/v2", may_pull=False), ITSELF), id="resolve-only"),
        pytest.param('[host."https://m.io"]\ncapabilities = ["Pull"]',
                     (Host(base="https://m.io/v2", may_resolve=False), ITSELF), id="capitals"),
        pytest.param('[host."https://m.io"]\ncapabilities = []', (MIRROR, ITSELF), id="all"),
        pytest.param('[host."https://m.io"]\nskip_verify = false\ndial_timeout = "3s"',
                     (MIRROR, ITSELF), id="what-changes-nothing"),
    ],
)  # fmt: skip  # a file and its hosts
def test_a_file_names_hosts_in_their_order(text: str, hosts: tuple[Host, ...]) -> None:
    assert parse_hosts(text, folder=Path("/none")) == hosts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[host", "Expected"),
        ('[host."https://m.io"]\nskip_verify = true', "skip_verify of https://m.io is not"),
        ('[host."https://m.io"]\nclient = "/c.pem"', "client of https://m.io is not"),
        ('[host."https://m.io"]\n[host."https://m.io".header]\nx = "y"', "header of"),
        ('[host."https://m.io"]\nca = "missing.pem"', "missing.pem: No such file"),
        ('[host."https://m.io"]\ncapabilities = "pull"', "capabilities"),
        ('[host."https://m.io"]\ncapabilities = ["pul"]', "no capability 'pul'; there are pull, "),
        ('[host."ftp://m.io"]', "is not http"),
        ('[host."https://u:p@m.io"]', "has credentials"),
        ('[host."https://"]', "is not http"),
        ('[host."https://m.io:x"]', "is no address"),
        ('server = 5', "server"),
    ],
)  # fmt: skip  # a file and what is wrong with it
def test_a_file_that_cannot_be_kept_to_is_refused_by_its_name(
    text: str, words: str, tmp_path: Path
) -> None:
    place(tmp_path, "h.io", text)
    with pytest.raises(errors.NodeFault, match=f"{tmp_path}/h.io/hosts.toml: .*{words}"):
        Mirrors(tmp_path).hosts_of("h.io")


@pytest.mark.parametrize(
    "text",
    [
        '[host."http://u:secretpw@m.io"]',
        '[host."u:secretpw@m.io"]',
        '[host."ftp://u:secretpw@m.io"]',
        '[host."https://u:secretpw@m.io:x"]',
        '[host."https://u:secret/pw?secretpw@m.io"]',
        '[host."https://m.io/?sig=secretpw"]',
        '[host."https://m.io/#secretpw"]',
        '[host."https://u:secretpw@m.io"]\nskip_verify = true',
        '[host."https://u:secretpw@m.io"]\ncapabilities = ["pul"]',
        '[host."https://u:secretpw@m.io"]\n[host."https://u:secretpw@m.io"]',
        'server = "https://u:secretpw@m.io"',
    ],
    ids=ascii,
)  # fmt: skip  # a file on a line
def test_a_credential_in_a_file_is_refused_and_never_shown(text: str, tmp_path: Path) -> None:
    place(tmp_path, "h.io", text)
    with pytest.raises(errors.NodeFault, match=r"h\.io/hosts\.toml: .*m\.io") as caught:
        Mirrors(tmp_path).hosts_of("h.io")
    assert not re.search("secretpw|secret/", str(caught.value))


def test_a_file_with_credentials_says_where_they_belong() -> None:
    with pytest.raises(ValueError, match=r"'m\.io:5000' has credentials, .*--registry-config"):
        parse_hosts('[host."http://u:secretpw@m.io:5000"]', folder=Path("/none"))


def place(folder: Path, name: str, text: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "hosts.toml").write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("registry", "names", "found"),
    [
        pytest.param("h.io", ["h.io", "_default"], "h.io", id="its-own"),
        pytest.param("h.io:5000", ["h.io:5000", "_default", "h.io"], "h.io:5000", id="port"),
        pytest.param("h.io:5000", ["h.io_5000_", "_default"], "h.io_5000_", id="port-in-words"),
        pytest.param("h.io:5000", ["h.io", "_default"], "_default", id="another-port"),
        pytest.param("x.io", ["h.io", "_default"], "_default", id="default"),
        pytest.param("x.io", ["h.io"], None, id="none"),
    ],
)
def test_a_registry_has_the_folder_of_its_name(
    registry: str, names: list[str], found: str | None, tmp_path: Path
) -> None:
    for name in names:
        place(tmp_path, name, f'server = "https://m.io/{name.replace(":", "-")}"')
    hosts = Mirrors(tmp_path).hosts_of(registry)
    bases = [f"https://m.io/{found.replace(':', '-')}/v2"] if found else [None]
    assert [host.base for host in hosts] == bases


def test_a_folder_without_a_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "h.io").mkdir()
    place(tmp_path, "_default", 'server = "https://m.io"')
    assert Mirrors(tmp_path).hosts_of("h.io") == (ITSELF,)
    assert Mirrors().hosts_of("h.io") == (ITSELF,)


async def pull(
    registry: WebServer, mirrors: Path, *, config: RegistryConfig | None = None
) -> Image:
    """Manifest, config and the layer's place, of an image that registry's name stands before."""
    async with Registry.open(
        config=config or RegistryConfig.empty(),
        plain_http=frozenset([registry.address]),
        mirrors=Mirrors(mirrors),
        retry=AT_ONCE,
    ) as client:
        reference = parse_reference(f"{registry.address}/app:1")
        image = await client.resolve(reference, Platform("linux", "amd64"))
        source = await client.blob_source(reference, image.layers[0])
        assert source.url
        return image


def good(asked: Asked) -> Reply:
    """A mirror that has everything."""
    path, _, query = asked.path.partition("?")
    assert query.startswith("ns=")
    return shelf()(Asked(method="GET", path=path, headers={}, body=b""))


async def test_a_mirror_is_asked_in_the_registry_s_stead(tmp_path: Path) -> None:
    with run_web(shelf()) as registry, run_web(good) as mirror:
        place(tmp_path, registry.address, f'[host."http://{mirror.address}"]')
        assert (await pull(registry, tmp_path)).digest == d.digest(MANIFEST)
        assert registry.asked == []
        namespace = f"?ns={registry.address.replace(':', '%3A')}"
        assert mirror.paths()[0] == f"/v2/app/manifests/1{namespace}"
        assert len(mirror.asked) == 3


def answers(status: int) -> Responder:
    return lambda _: Reply(status)


@pytest.mark.parametrize(
    "respond",
    [
        *(pytest.param(answers(status), id=str(status)) for status in (401, 403, 404, 429, 500)),
        pytest.param(lambda _: Reply(raw=b""), id="silence"),
        pytest.param(lambda _: Reply(raw=BABBLE.encode()), id="babble"),
        pytest.param(
            lambda asked: Reply(206, body=b"l") if "range" in asked.headers
            else Reply(headers={"Docker-Content-Digest": d.digest(b"x")}, body=b"y"),
            id="wrong-bytes",
        ),
    ],
)  # fmt: skip  # a mirror, its name
async def test_after_a_mirror_that_has_it_not_the_next_host_is_asked(
    respond: Callable[[Asked], Reply], tmp_path: Path
) -> None:
    with run_web(shelf()) as registry, run_web(respond) as mirror:
        place(
            tmp_path, "_default",
            f'[host."http://127.0.0.1:1"]\n[host."http://{mirror.address}"]',
        )  # fmt: skip
        assert (await pull(registry, tmp_path)).digest == d.digest(MANIFEST)
        assert mirror.asked


async def test_a_mirror_that_is_down_is_not_waited_for_again_and_again(tmp_path: Path) -> None:
    with run_web(shelf()) as registry, run_web(answers(503)) as mirror:
        place(tmp_path, "_default", f'[host."http://{mirror.address}"]')
        await pull(registry, tmp_path)
        assert len(mirror.asked) == 1
        assert len(registry.asked) == 3


async def test_the_last_host_s_word_holds_whatever_mirrors_say(tmp_path: Path) -> None:
    with run_web(answers(404)) as registry, run_web(answers(503)) as mirror:
        place(tmp_path, "_default", f'[host."http://{mirror.address}"]')
        with pytest.raises(errors.ImageNotFound):
            await pull(registry, tmp_path)
        assert len(mirror.asked) == 1


RUBBISH = [
    pytest.param("text/html", b"<html>portal</html>", id="portal"),
    pytest.param("text/html", b'{"schemaVersion":2}', id="another-type"),
    pytest.param(d.OCI_MANIFEST, b'{"schemaVersion":2}', id="half-manifest"),
    pytest.param(d.OCI_INDEX, b'{"schemaVersion":2,"manifests":5}', id="malformed-index"),
]


@pytest.mark.parametrize(("media_type", "body"), RUBBISH)
async def test_a_mirror_that_answers_a_tag_with_rubbish_is_passed_by_with_a_warning(
    media_type: str, body: bytes, tmp_path: Path
) -> None:
    def rubbish(asked: Asked) -> Reply:
        return Reply(headers={"Content-Type": media_type}, body=body)

    with run_web(shelf()) as registry, run_web(rubbish) as mirror, capture_logs() as logs:
        place(tmp_path, "_default", f'[host."http://{mirror.address}"]')
        assert (await pull(registry, tmp_path)).digest == d.digest(MANIFEST)
        assert "/v2/app/manifests/1" in registry.paths()
    said = next(one for one in logs if one["event"] == "mirror passed by")
    assert said["log_level"] == "warning"
    assert said["host"] == f"http://{mirror.address}/v2"
    assert mirror.address in said["error"]


async def test_what_a_mirror_has_not_got_is_no_warning(tmp_path: Path) -> None:
    with run_web(shelf()) as registry, run_web(answers(404)) as mirror, capture_logs() as logs:
        place(tmp_path, "_default", f'[host."http://{mirror.address}"]')
        await pull(registry, tmp_path)
    said = [one for one in logs if one["event"] == "mirror passed by"]
    assert [one["log_level"] for one in said] == ["info"] * 3


@pytest.mark.parametrize(("media_type", "body"), RUBBISH)
async def test_the_last_host_s_rubbish_is_told_with_its_name(
    media_type: str, body: bytes, tmp_path: Path
) -> None:
    def rubbish(asked: Asked) -> Reply:
        return Reply(headers={"Content-Type": media_type}, body=body)

    with run_web(answers(404)) as registry, run_web(rubbish) as server:
        place(tmp_path, "_default", f'server = "http://{server.address}"')
        told = f"^{registry.address}/app:1 at {server.address}: "
        with pytest.raises(errors.ClipError, match=told):
            await pull(registry, tmp_path)


async def test_a_mirror_is_asked_for_what_it_can(tmp_path: Path) -> None:
    with run_web(shelf()) as registry, run_web(good) as mirror:
        place(tmp_path, "_default", f'[host."http://{mirror.address}"]\ncapabilities = ["pull"]')
        await pull(registry, tmp_path)
        assert registry.paths() == ["/v2/app/manifests/1"]
        assert [path.partition("?")[0] for path in mirror.paths()] == [
            f"/v2/app/blobs/{d.digest(CONFIG)}",
            f"/v2/app/blobs/{d.digest(b'layer')}",
        ]


async def test_what_no_host_can_is_the_node_s_fault(tmp_path: Path) -> None:
    with run_web(shelf()) as registry:
        place(tmp_path, "_default", 'server = "http://127.0.0.1:1"\ncapabilities = ["pull"]')
        with pytest.raises(errors.NodeFault, match=r"no host of .* has the capability resolve"):
            await pull(registry, tmp_path)


async def test_a_mirror_gets_its_own_credentials_and_never_the_registry_s(tmp_path: Path) -> None:
    def guarded(asked: Asked) -> Reply:
        if "authorization" not in asked.headers:
            return Reply(401, {"WWW-Authenticate": 'Basic realm="r"'})
        return good(asked)

    with run_web(shelf()) as registry, run_web(guarded) as mirror:
        place(tmp_path, "_default", f'[host."http://{mirror.address}"]')
        await pull(
            registry, tmp_path, config=RegistryConfig.single(registry.address, "me", PASSWORD)
        )
        assert not any("authorization" in one.headers for one in mirror.asked)
        assert len(registry.asked) == 3
        await pull(registry, tmp_path, config=RegistryConfig.single(mirror.address, "me", PASSWORD))
        assert len(registry.asked) == 3


async def test_a_mirror_s_ca_is_trusted_for_that_mirror_alone(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with (
        run_web(shelf()) as registry,
        run_web(good, tls=certificate) as trusted,
        run_web(good, tls=certificate) as other,
    ):
        folder = place(
            tmp_path / "mirrors", "_default",
            f'[host."https://{other.address}"]\n[host."https://{trusted.address}"]\nca = "ca.pem"',
        )  # fmt: skip
        certificate.cert.rename(folder / "ca.pem")
        await pull(registry, tmp_path / "mirrors")
        assert (len(other.asked), len(trusted.asked), len(registry.asked)) == (0, 3, 0)
