"""Credentials that are refused in the middle of a caller's life, and those that come instead."""

import base64
import json

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.held import ASK_AGAIN_S, HeldCredentials
from clipfs.image.hosts import Hosts
from clipfs.image.http import Wire
from clipfs.image.mirrors import NO_MIRRORS
from clipfs.image.platform import Platform
from clipfs.image.reference import parse_reference
from clipfs.image.registry import Registry
from clipfs.image.retry import ONCE
from tests.image import documents as d
from tests.image.pulls import MANIFEST, shelf
from tests.support.web import Asked, Reply, WebServer, run_web

PLATFORM = Platform("linux", "amd64")


class Giver:
    """Gives what a test puts into `next`; `asked` times it was asked."""

    def __init__(self) -> None:
        self.next: RegistryConfig | None = None
        self.asked = 0
        self.gate = trio.Event()
        self.gate.set()

    async def others(self) -> RegistryConfig | None:
        self.asked += 1
        await self.gate.wait()
        return self.next


class One:
    """Gives one after the other."""

    def __init__(self, configs: list[RegistryConfig]) -> None:
        self._left = iter(configs)

    async def others(self) -> RegistryConfig | None:
        return next(self._left, None)


class Door:
    """A registry that opens to one password, by basic or by a token of it; changed at any time.

    answers  the status for what is refused
    """

    def __init__(self, *, with_tokens: bool) -> None:
        self.password = "old"
        self.answers = 401
        self._with_tokens = with_tokens
        self._good = shelf()

    def __call__(self, asked: Asked) -> Reply:
        shown = asked.headers.get("authorization", "")
        basic = "Basic " + base64.b64encode(f"me:{self.password}".encode()).decode()
        if asked.path.startswith("/token"):
            token = json.dumps({"token": f"for-{self.password}"}).encode()
            return Reply(body=token) if shown == basic else Reply(self.answers)
        if shown == (f"Bearer for-{self.password}" if self._with_tokens else basic):
            return self._good(asked)
        if shown.startswith("Basic") and not self._with_tokens:
            return Reply(self.answers)
        realm = f'Bearer realm="http://{asked.headers["host"]}/token"'
        challenge = realm if self._with_tokens else 'Basic realm="r"'
        return Reply(401, headers={"WWW-Authenticate": challenge})


def config(web: WebServer, password: str) -> RegistryConfig:
    return RegistryConfig.single(web.address, "me", password)


@pytest.mark.parametrize("answers", [401, 403])
@pytest.mark.parametrize("with_tokens", [False, True], ids=["basic", "tokens"])
async def test_what_is_refused_is_asked_once_more_with_what_the_giver_has(
    with_tokens: bool, answers: int
) -> None:
    door, giver = Door(with_tokens=with_tokens), Giver()
    door.answers = answers
    with run_web(door) as web:
        held = HeldCredentials(config(web, "old"), giver)
        async with Wire.open(plain_http=frozenset([web.address]), retry=ONCE) as wire:
            registry = Registry(wire, held, NO_MIRRORS)
            reference = parse_reference(f"{web.address}/app:1")
            await registry.resolve(reference, PLATFORM)
            assert giver.asked == 0
            door.password, giver.next = "new", config(web, "new")
            image = await registry.resolve(reference, PLATFORM)
            assert image.digest == d.digest(MANIFEST)
            assert giver.asked == 1
            assert held.config == giver.next


@pytest.mark.parametrize("with_tokens", [False, True], ids=["basic", "tokens"])
async def test_where_there_are_no_others_the_refusal_is_the_answer(with_tokens: bool) -> None:
    door, giver = Door(with_tokens=with_tokens), Giver()
    with run_web(door) as web:
        wrong = config(web, "wrong")
        for given in (None, config(web, "wrong"), config(web, "wrong-too")):
            giver.next = given
            held = HeldCredentials(wrong, giver)
            async with Wire.open(plain_http=frozenset([web.address]), retry=ONCE) as wire:
                with pytest.raises(errors.Unauthenticated):
                    await Registry(wire, held, NO_MIRRORS).resolve(
                        parse_reference(f"{web.address}/app:1"), PLATFORM
                    )
        assert giver.asked == 1 + 2 + 3, "until it has nothing else"


@pytest.mark.parametrize("with_tokens", [False, True], ids=["basic", "tokens"])
async def test_what_the_giver_has_is_tried_until_one_is_let_in(with_tokens: bool) -> None:
    """As where a secret has been changed, and only one of an image's pods has the new one yet."""
    door = Door(with_tokens=with_tokens)
    with run_web(door) as web:
        door.password = "new"
        others = [config(web, one) for one in ("old", "older", "new", "never asked for")]
        held = HeldCredentials(config(web, "old"), One(others))
        async with Wire.open(plain_http=frozenset([web.address]), retry=ONCE) as wire:
            image = await Registry(wire, held, NO_MIRRORS).resolve(
                parse_reference(f"{web.address}/app:1"), PLATFORM
            )
    assert image.digest == d.digest(MANIFEST)
    assert held.config == config(web, "new")


async def test_a_giver_without_end_is_not_asked_without_end() -> None:
    door = Door(with_tokens=False)
    with run_web(door) as web:
        endless = One([config(web, f"wrong-{number}") for number in range(1000)])
        held = HeldCredentials(config(web, "old"), endless)
        door.password = "new"
        async with Wire.open(plain_http=frozenset([web.address]), retry=ONCE) as wire:
            with pytest.raises(errors.Unauthenticated):
                await Registry(wire, held, NO_MIRRORS).resolve(
                    parse_reference(f"{web.address}/app:1"), PLATFORM
                )
    assert len(web.asked) < 100


async def test_what_was_replaced_is_not_shown_any_more() -> None:
    """Neither the credentials nor the header that was made with them."""
    door = Door(with_tokens=True)
    with run_web(door) as web:
        held = HeldCredentials(config(web, "old"))
        async with Wire.open(plain_http=frozenset([web.address]), retry=ONCE) as wire:
            registry = Registry(wire, held, NO_MIRRORS)
            reference = parse_reference(f"{web.address}/app:1")
            await registry.resolve(reference, PLATFORM)
            held.replace(RegistryConfig.empty())
            before = len(web.asked)
            with pytest.raises(errors.Unauthenticated):
                await registry.resolve(reference, PLATFORM)
    later = [one.headers.get("authorization") for one in web.asked[before:]]
    assert later == [None] * len(later)
    assert later


async def test_a_store_that_refuses_a_redirect_is_nobodys_credentials() -> None:
    giver = Giver()
    with run_web(lambda _: Reply(403)) as store:
        away = Reply(307, headers={"Location": f"http://{store.address}/signed"})
        with run_web(lambda _: away) as web:
            held = HeldCredentials(config(web, "old"), giver)
            async with Wire.open(plain_http=frozenset([web.address]), retry=ONCE) as wire:
                hosts = Hosts(wire, held, NO_MIRRORS)
                reference = parse_reference(f"{web.address}/app:1")
                (session,) = hosts.of(reference, by_digest=True)
                answer = await session.ask("GET", reference, "blobs", "x", {}, patient=False)
    assert (answer.status, giver.asked) == (403, 0)


async def test_many_who_are_refused_at_once_ask_once_and_all_get_the_answer() -> None:
    giver, old = Giver(), RegistryConfig.single("h", "me", "old")
    giver.next, giver.gate = RegistryConfig.single("h", "me", "new"), trio.Event()
    held, told = HeldCredentials(old, giver), list[bool]()

    async def ask() -> None:
        told.append(await held.renewed(refused=old))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        giver.gate.set()
    assert (told, giver.asked) == ([True] * 5, 1)


async def test_a_giver_that_has_nothing_is_not_asked_again_at_once(
    mock_clock: MockClock,
) -> None:
    giver, old = Giver(), RegistryConfig.single("h", "me", "old")
    held = HeldCredentials(old, giver)
    for jump_s, asked in ((0.0, 1), (ASK_AGAIN_S - 0.1, 1), (0.2, 2), (0.0, 2)):
        mock_clock.jump(jump_s)
        assert not await held.renewed(refused=old)
        assert giver.asked == asked
    giver.next = RegistryConfig.single("h", "me", "new")
    mock_clock.jump(ASK_AGAIN_S)
    assert await held.renewed(refused=old)
    assert await held.renewed(refused=old), "what is held is not what was refused"
    assert giver.asked == 3


async def test_without_a_giver_nothing_is_renewed() -> None:
    old = RegistryConfig.single("h", "me", "old")
    assert not await HeldCredentials(old).renewed(refused=old)
