"""The fuzzers of our parsers: what they once found stays found, and they do find things.

`make fuzz` is the long run; here each is short, and the same every time (where the kernel lets
a process have fixed addresses). What it finds is a defect of the product: make a test of the
input, then mend it.
"""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from tests.fuzz import corpus
from tests.fuzz.engine import Engine
from tests.fuzz.http_oracle import answers_in, requests_in
from tests.fuzz.judge import Broken, Outcome, Target
from tests.fuzz.planted import GROWTH, HANG, PLANTED, Planted
from tests.fuzz.targets import SPECS
from tests.support.at_once import Endings, at_once, cpus

RUNS = 1_500
"""Of a target, on top of its corpus: a second or two."""

RUNS_TO_FIND = 20_000
SHARES = {
    "reference": 0.4,
    "manifest": 0.3,
    "tar": 0.85,
    "codec": 0.7,
    "layer_index": 0.4,
    "erofs": 0.5,
    "head": 0.1,
    "connection": 0.3,
}
"""Of the inputs, those that must pass the first check."""

MAX_CORPUS_BYTES = 400_000


RUBBISH = bytes(range(255, 0, -1)) * 4
"""Which no target lets pass its first check."""


def target_of(name: str) -> Target:
    return cast("Target", importlib.import_module(f"tests.fuzz.targets.{name}"))


@pytest.mark.parametrize("name", SPECS)
def test_every_input_that_was_kept_is_read_or_refused(name: str) -> None:
    target = target_of(name)
    kept = corpus.read(name)
    assert len(kept) > 5
    outcomes = {target.run(data) for data in [RUBBISH, *target.seeds(), *kept]}
    assert outcomes == set(Outcome)


def test_the_kept_inputs_are_small() -> None:
    assert sum(corpus.path(name).stat().st_size for name in SPECS) < MAX_CORPUS_BYTES
    for name, spec in SPECS.items():
        assert all(len(data) <= spec.max_bytes for data in corpus.read(name))


@pytest.fixture(scope="module")
def endings(request: pytest.FixtureRequest) -> Iterator[Endings]:
    runs: list[tuple[Callable[..., None], str, Callable[[Path], None]]] = [
        *((test_a_defect_planted_behind_the_first_check_is_found, one.name,
           partial(find, one)) for one in reversed(PLANTED)),
        *((test_a_short_run_finds_nothing_and_gets_behind_the_first_check, name,
           partial(run_shortly, name)) for name in SPECS),
    ]  # fmt: skip # a test and its body
    bodies = {f"{test.__name__}[{name}]": body for test, name, body in runs}
    with at_once(request, bodies, most=cpus()) as ends:
        yield ends


@pytest.mark.parametrize("name", SPECS)
def test_a_short_run_finds_nothing_and_gets_behind_the_first_check(
    name: str, request: pytest.FixtureRequest, endings: Endings
) -> None:
    endings[request.node.name].result()


def run_shortly(name: str, home: Path) -> None:
    begin = corpus.unpack([*target_of(name).seeds(), *corpus.read(name)], home / "begin")
    runs = len(list(begin.iterdir())) + RUNS
    report = Engine(name, home / "run").fuzz(begin, runs=runs)
    print(report)
    assert report.findings == ()
    assert report.executions >= runs
    assert report.share > SHARES[name]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_a_defect_planted_behind_the_first_check_is_found(
    planted: Planted, request: pytest.FixtureRequest, endings: Endings
) -> None:
    """By mutation, from the seeds alone: no seed shows it, and no input that was kept is used."""
    endings[request.node.name].result()


def find(planted: Planted, home: Path) -> None:
    seeds = list(target_of(planted.target).seeds())
    begin = corpus.unpack(seeds, home / "begin")
    change = (planted.module, planted.old, planted.new)
    engine = Engine(planted.target, home / "run", change=change, stop_at_first=True)
    report = engine.fuzz(begin, runs=RUNS_TO_FIND)
    print(f"{planted.name}, found by {report}")
    assert report.findings, report.log
    assert planted.found in report.findings[0]
    assert report.executions > len(seeds)
    assert report.share > SHARES[planted.target]


@pytest.mark.parametrize("planted", [HANG, GROWTH], ids=lambda planted: planted.name)
def test_a_hang_and_memory_without_bound_are_findings(planted: Planted, tmp_path: Path) -> None:
    begin = corpus.unpack(list(target_of(planted.target).seeds()), tmp_path / "begin")
    change = (planted.module, planted.old, planted.new)
    engine = Engine(planted.target, tmp_path / "run", change=change, hang_s=3)
    report = engine.fuzz(begin, runs=RUNS_TO_FIND)
    assert report.findings[0].startswith(planted.found), report.findings


def test_an_input_that_breaks_a_target_is_kept_with_its_traceback(tmp_path: Path) -> None:
    planted = next(one for one in PLANTED if one.name.startswith("codec-a-zstd-error"))
    change = (planted.module, planted.old, planted.new)
    engine = Engine(planted.target, tmp_path / "run", change=change)
    seeds = list(target_of(planted.target).seeds())
    report = engine.fuzz(corpus.unpack(seeds, tmp_path / "begin"), runs=300)
    assert report.executions >= 300  # it goes on
    assert "zstandard.backend_c.ZstdError" in report.findings[0]
    (kept,) = engine.findings.glob("*.input")
    assert target_of(planted.target).run(kept.read_bytes()) == Outcome.REFUSED  # as it should be


def test_a_client_that_breaks_off_after_a_100_was_given_no_answer() -> None:
    lines = (
        b"PUT /x HTTP/1.1",
        b"Host: -",
        b"Content-Length: 5",
        b"Expect: 100-continue",
        b"",
        b"ab",
    )
    asked = requests_in(b"\r\n".join(lines))
    said = b"HTTP/1.1 100 \r\n\r\n"
    answer = b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"
    assert answers_in(said, asked, seen=1) == []
    assert [one.status for one in answers_in(said + answer, asked, seen=1)] == [200]
    with pytest.raises(Broken, match="not an answer"):
        answers_in(said + answer[:9], asked, seen=1)
