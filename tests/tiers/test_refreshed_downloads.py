"""A download that outlives its credentials goes on where it is, with those that came instead."""

import base64
from pathlib import Path

import pytest

from clipfs.image.credentials import RegistryConfig
from tests.support.faulty_registry import cut_short, on_downloads, relayed
from tests.support.lending_driver import LendingDriver, run_lending_driver
from tests.support.registry import RegistryServer
from tests.support.samples import Sample
from tests.support.tier_stack import opened_tiers
from tests.support.web import Asked, Reply, run_web
from tests.tiers.downloads import AT_ONCE, EITHER, NAME, asked_ranges, pull, pushed

CUT_BYTES = 1_000_000


class Rotating:
    """A registry before the real one: breaks the first download off, and opens to NEW then."""

    def __init__(self, upstream: str, *, with_tokens: bool) -> None:
        self.driver: LendingDriver | None = None
        self.password = "old"
        self.refused: list[str] = []
        self._upstream = upstream
        self._with_tokens = with_tokens
        self._cut = cut_short(CUT_BYTES)

    def __call__(self, asked: Asked) -> Reply:
        shown = asked.headers.get("authorization", "")
        basic = "Basic " + base64.b64encode(f"user:{self.password}".encode()).decode()
        if asked.path.startswith("/token"):
            token = b'{"token": "for-%s"}' % self.password.encode()
            return Reply(body=token) if shown == basic else Reply(401)
        if shown != (f"Bearer for-{self.password}" if self._with_tokens else basic):
            self.refused.append(shown)
            realm = f'Bearer realm="http://{asked.headers["host"]}/token"'
            challenge = realm if self._with_tokens else 'Basic realm="r"'
            return Reply(401, {"WWW-Authenticate": challenge})
        reply = relayed(self._upstream, asked)
        if not on_downloads(asked) or self.password == "new":
            return reply
        assert self.driver
        self.driver.rotate("new")
        self.password = "new"
        return self._cut(asked, reply)


@EITHER
@pytest.mark.parametrize("with_tokens", [False, True], ids=["basic", "tokens"])
async def test_a_pass_that_outlives_its_credentials_goes_on_with_others(
    with_tokens: bool, indexed: bool, registry: RegistryServer, tmp_path: Path
) -> None:
    layer = pushed(tmp_path, registry.address, seed=4711)
    respond = Rotating(registry.address, with_tokens=with_tokens)
    with run_web(respond) as web:
        image = f"{web.address}/{NAME}@sha256:{'a' * 64}"
        with run_lending_driver(tmp_path / "credentials.sock", image) as driver:
            respond.driver = driver
            driver.rotate("old")
            await pulled(tmp_path / "root", layer, driver, indexed=indexed)
    assert asked_ranges(web)[-1] == f"bytes={CUT_BYTES}-", "nothing came twice"
    assert any(respond.refused), "what was shown first was refused then"


async def pulled(root: Path, layer: Sample, driver: LendingDriver, *, indexed: bool) -> None:
    config = RegistryConfig.single(driver.registry, "user", "old")
    name = f"{driver.registry}/{NAME}"
    async with opened_tiers(
        root, name, retry=AT_ONCE, config=config, driver=driver.socket
    ) as tiers:
        await pull(tiers, layer, indexed=indexed)
    assert (root / "cache" / layer.key).read_bytes() == layer.payload
