"""Claims: one holder at a time, by the server's clock, whichever process answers."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clipfs.content.claims import LAPSE_S
from tests.support.content import (
    READ_TOKEN,
    Answer,
    ContentServer,
    key_of,
    layer_of,
    run_content_server,
)
from tests.support.content_worker import run_worker

PROGRESS = {"downloaded_bytes": 10, "payload_bytes": 20, "total_bytes": 30, "stored_bytes": 40}
NONE_YET = dict.fromkeys(PROGRESS, 0)


def claim(server: ContentServer, key: str, holder: str, progress: object = None) -> Answer:
    body = {"holder": holder, **({} if progress is None else {"progress": progress})}
    return server.ask("PUT", f"/v1/claims/{key}", json.dumps(body).encode())


def release(server: ContentServer, key: str, holder: str) -> Answer:
    return server.ask("DELETE", f"/v1/claims/{key}", json.dumps({"holder": holder}).encode())


def lapse(server: ContentServer, key: str) -> None:
    """Let time pass: the claim says that it lapsed at this moment."""
    path = server.directory / "claims" / key
    kept = json.loads(path.read_bytes())
    path.write_text(json.dumps({**kept, "lapses_ns": kept["lapses_ns"] - LAPSE_S * 10**9}))


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[ContentServer, ContentServer]]:
    """Two processes on one folder."""
    with run_content_server(tmp_path) as one, run_worker(one) as other:
        yield one, other


def test_a_claim_is_granted_once_and_others_see_whose_it_is(
    server: ContentServer, layer: str
) -> None:
    granted = claim(server, layer, "a", PROGRESS)
    assert granted.status == 201
    assert json.loads(granted.body) == {
        "holder": "a",
        "progress": PROGRESS,
        "seconds_left": LAPSE_S,
    }
    refused = claim(server, layer, "b")
    assert (refused.status, refused.headers["content-type"]) == (409, "application/json")
    seen = json.loads(refused.body)
    assert 0 < seen.pop("seconds_left") <= LAPSE_S
    assert seen == {"holder": "a", "progress": PROGRESS}


def test_its_holder_renews_it_and_tells_how_far_it_is(server: ContentServer, layer: str) -> None:
    assert json.loads(claim(server, layer, "a").body)["progress"] == NONE_YET
    assert claim(server, layer, "a", PROGRESS).status == 201
    assert json.loads(claim(server, layer, "b").body)["progress"] == PROGRESS


def test_a_claim_that_is_not_renewed_lapses(server: ContentServer, layer: str) -> None:
    claim(server, layer, "a")
    lapse(server, layer)
    assert claim(server, layer, "b").status == 201
    assert json.loads(claim(server, layer, "a").body)["holder"] == "b"


def test_a_clock_set_back_does_not_prolong_a_claim(server: ContentServer, layer: str) -> None:
    claim(server, layer, "a")
    path = server.directory / "claims" / layer
    kept = json.loads(path.read_bytes())
    path.write_text(json.dumps({**kept, "lapses_ns": kept["lapses_ns"] + 3600 * 10**9}))
    assert claim(server, layer, "b").status == 201


def test_only_its_holder_releases_it(server: ContentServer, layer: str) -> None:
    claim(server, layer, "a")
    kept = release(server, layer, "b")
    assert (kept.status, json.loads(kept.body)["holder"]) == (409, "a")
    assert claim(server, layer, "b").status == 409
    assert release(server, layer, "a").status == 204
    assert release(server, layer, "a").status == 204
    assert claim(server, layer, "b").status == 201


def test_claims_on_different_keys_know_nothing_of_each_other(
    server: ContentServer, fresh_key: Callable[[], str]
) -> None:
    one, other = (fresh_key().partition("/")[0] for _ in range(2))
    for key in (one, f"{one}.raw", f"{one}.v1.toc", other):
        assert claim(server, key, key[-5:]).status == 201


@pytest.mark.parametrize(
    "key", ["", "x", ".new", "..", "../kept", key_of(1), key_of(1) + "/x", "sha256_" + "A" * 64]
)
def test_only_a_layer_or_an_index_can_be_claimed(server: ContentServer, key: str) -> None:
    assert claim(server, key, "a").status == 404


def test_claiming_is_for_those_who_may_write(server: ContentServer, layer: str) -> None:
    body = b'{"holder":"a"}'
    for method in ("PUT", "DELETE"):
        assert server.ask(method, f"/v1/claims/{layer}", body, token=READ_TOKEN).status == 403
        assert server.ask(method, f"/v1/claims/{layer}", body, token=None).status == 401
    assert server.ask("GET", f"/v1/claims/{layer}").headers["allow"] == "PUT, DELETE"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        pytest.param(b"", 400, "truncated", id="empty"),
        pytest.param(b"{", 400, "truncated", id="cut off"),
        pytest.param(b"[]", 400, "object", id="an array"),
        pytest.param(b"{}", 400, "holder", id="no holder"),
        pytest.param(b'{"holder":1}', 400, "holder", id="a number"),
        pytest.param(b'{"holder":""}', 400, "holder", id="an empty holder"),
        pytest.param(b'{"holder":"a\\nb"}', 400, "holder", id="a line break"),
        pytest.param(b'{"holder":"a\\n"}', 400, "holder", id="a line break at the end"),
        pytest.param(b'{"holder":"' + b"a" * 129 + b'"}', 400, "holder", id="a long holder"),
        pytest.param(b'{"holder":"a","progress":1}', 400, "progress", id="no progress"),
        pytest.param(
            b'{"holder":"a","progress":{"total_bytes":-1}}', 400, "total_bytes", id="negative"
        ),
        pytest.param(
            b'{"holder":"a","progress":{"total_bytes":9223372036854775808}}',
            400,
            "total_bytes",
            id="over 63 bits",
        ),
        pytest.param(b'{"holder":"\xff"}', 400, "UTF-8", id="no UTF-8"),
        pytest.param(b'{"x":' + b"[" * 4000, 400, "nested", id="deep"),
        pytest.param(b" " * 4097, 413, "4096", id="long"),
    ],
)
def test_a_body_that_is_no_claim_is_refused_and_says_why(
    body: bytes, status: int, words: str, server: ContentServer, layer: str
) -> None:
    refused = server.ask("PUT", f"/v1/claims/{layer}", body)
    assert refused.status == status
    assert words in refused.body.decode()
    assert refused.body.count(b"\n") == 1
    assert not (server.directory / "claims" / layer).exists()


def test_claims_survive_a_kill_and_a_restart(tmp_path: Path) -> None:
    key = layer_of(1)
    with run_content_server(tmp_path) as server:
        claim(server, key, "a", PROGRESS)
        server.kill()
    with run_content_server(tmp_path) as server:
        seen = json.loads(claim(server, key, "b").body)
        assert (seen["holder"], seen["progress"]) == ("a", PROGRESS)
        assert claim(server, key, "a").status == 201


def test_a_claims_file_that_a_power_cut_has_emptied_is_no_claim(
    server: ContentServer, layer: str
) -> None:
    claim(server, layer, "a")
    (server.directory / "claims" / layer).write_bytes(b"")
    assert claim(server, layer, "b").status == 201


def test_lapsed_claims_are_forgotten(tmp_path: Path) -> None:
    with run_content_server(tmp_path) as server:
        for number in range(3):
            claim(server, layer_of(number), "a")
            lapse(server, layer_of(number))
        claim(server, layer_of(9), "a")
        assert os.listdir(server.directory / "claims") == [layer_of(9)]


def test_all_processes_of_a_server_know_the_same_claims(
    both: tuple[ContentServer, ContentServer],
) -> None:
    one, other = both
    key = layer_of(1)
    assert claim(one, key, "a", PROGRESS).status == 201
    assert json.loads(claim(other, key, "b").body)["progress"] == PROGRESS
    assert release(other, key, "a").status == 204
    assert claim(one, key, "b").status == 201


def test_those_who_wait_for_a_claimed_layer_miss_it_again_and_again_without_a_warning(
    server: ContentServer, fresh_key: Callable[[], str]
) -> None:
    claimed, nobodys = fresh_key(), fresh_key()
    claim(server, claimed.partition("/")[0], "a")
    for key in [claimed, nobodys] * 20:
        assert server.ask("GET", key).status == 404
    missed = [line for line in server.log_lines() if line["event"] == "content not found"]
    levels = {key: {x["level"] for x in missed if x["key"] == key} for key in (claimed, nobodys)}
    assert levels == {claimed: {"debug"}, nobodys: {"debug", "warning"}}


def test_of_many_that_claim_at_once_through_two_processes_one_gets_it(
    both: tuple[ContentServer, ContentServer],
) -> None:
    for number in range(10):
        key = layer_of(number)
        answers: list[Answer] = []

        def ask(holder: int, key: str = key, answers: list[Answer] = answers) -> None:
            answers.append(claim(both[holder % 2], key, f"holder-{holder}"))

        threads = [threading.Thread(target=ask, args=(holder,)) for holder in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answer.status for answer in answers) == [201] + [409] * 7
        assert len({json.loads(answer.body)["holder"] for answer in answers}) == 1
