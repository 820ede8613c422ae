"""`python -m tests.soak tokens` with seconds for minutes: all but its times."""

import base64
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from tests.soak import tokens
from tests.soak.origins import Origin
from tests.soak.token_report import FIRST, SECOND, Course
from tests.support.apiserver import needs_apiserver
from tests.support.machine import needs_fuse
from tests.support.tokens import SERVICE
from tests.support.wait import wait_for

pytestmark = [needs_apiserver, needs_fuse]


def expired(origin: Origin) -> None:
    """Wait until the registry refuses every token that has been given so far."""
    address, server = origin.hosts
    user = SECOND if is_let_in(server, SECOND) else FIRST
    token = ask(server, user).json()["token"]
    manifest = f"http://{address}/v2/own/app/manifests/1"
    shown = {"Authorization": f"Bearer {token}"}
    wait_for(lambda: httpx.get(manifest, headers=shown).status_code == 401)


def is_let_in(server: str, user: tuple[str, str]) -> bool:
    return ask(server, user).status_code == 200


def ask(server: str, user: tuple[str, str]) -> httpx.Response:
    pair = base64.b64encode(":".join(user).encode()).decode()
    query = f"service={SERVICE}&scope=repository:own/app:pull"
    return httpx.get(f"http://{server}/token?{query}", headers={"Authorization": f"Basic {pair}"})


def test_mounts_that_outlive_their_tokens_and_their_secrets() -> None:
    course = Course(layers=8, token_s=2, rest=expired, republish_every=2, rotate_at=3, retire_at=5)
    with TemporaryDirectory() as home:  # sockets have short names
        report = tokens.run(Path(home), course)
    assert report.wrong() == []
    assert report.republished == 16
