"""Kubernetes' own storage tests, for a driver whose volumes are inline and cannot be written.

Three of the tests apply, `APPLIES`, and pass. Every other one is named in `OTHERS` with its reason;
one that a later Kubernetes adds is in neither, and fails here until it is.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import storage_suite
from tests.e2e.kubernetes import Cluster
from tests.e2e.sample import random_image
from tests.e2e.storage_suite import Definition, Outcome
from tests.support.cluster_programs import missing

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        bool(missing(storage_suite.PROGRAM)),
        reason="Kubernetes' own tests are a program that `make e2e-storage` builds",
    ),
]

INLINE = "[Testpattern: CSI Ephemeral-volume (default fs)] ephemeral "
READS = f"{INLINE}should create read-only inline ephemeral volume"
WRITES = f"{INLINE}should create read/write inline ephemeral volume"
TWO_PODS = f"{INLINE}should support two pods which have the same volume definition"
TWO_VOLUMES = f"{INLINE}should support multiple inline ephemeral volumes"
EXPANDS = f"{INLINE}should support expansion of pvcs created for ephemeral pvcs"
APPLIES = {READS, TWO_PODS, TWO_VOLUMES}

PROVISIONED = "of a claim that a provisioner fulfils; an image is made by a build, and nothing else"
OTHERS = {
    re.escape(WRITES): "an image cannot be written",
    re.escape(EXPANDS): "of a claim; an inline volume has none",
    r"\[Testpattern: Generic Ephemeral-volume .*": PROVISIONED,
    r"\[Testpattern: Dynamic PV .*": PROVISIONED,
    r"\[Testpattern: [^]]*(Snapshot|policy)[^]]*\] .*": "of snapshots; an image never changes",
}
"""Pattern of a name -> why such a test does not apply."""


@pytest.fixture(scope="module")
def definition() -> Definition:
    return storage_suite.our_definition()


@pytest.fixture
def two_images(definition: Definition, cluster: Cluster, tmp_path: Path) -> Definition:
    """The definition as if its volumes could be written, with a volume of another image."""
    cluster.push(random_image(tmp_path / "other").layout, "storage-tests:1")
    return storage_suite.writable(definition, "storage-tests:1")


def rows(name: str) -> Iterator[str]:
    """The tables' rows that a test is in."""
    yield from (name for one in APPLIES if one == name)
    yield from (pattern for pattern in OTHERS if re.fullmatch(pattern, name))


def states(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: one.state for name, one in outcomes.items()}


def test_each_test_that_kubernetes_has_for_some_driver_is_in_a_table_once(
    definition: Definition, tmp_path: Path
) -> None:
    everything = storage_suite.claiming_everything(definition)
    counts = Counter[str]()
    for name in storage_suite.names(everything, tmp_path):
        found = [*rows(name)]
        assert len(found) == 1, f"{name} is in {found or 'no table'}"
        counts.update(found)
    assert {*counts} == APPLIES | {*OTHERS}
    for row, count in counts.items():
        print(f"{count:4} {row}: {OTHERS.get(row, 'applies')}")


def test_for_our_definition_kubernetes_has_no_test_but_those_of_inline_volumes(
    definition: Definition, tmp_path: Path
) -> None:
    found = storage_suite.names(definition, tmp_path)
    assert found == {*APPLIES, WRITES, EXPANDS}


@pytest.mark.usefixtures("pods")
def test_what_kubernetes_asks_of_a_volume_that_says_it_is_read_only_passes(
    definition: Definition, cluster: Cluster, tmp_path: Path
) -> None:
    found = storage_suite.run(definition, cluster, tmp_path)
    assert found[READS] == Outcome("passed", "")
    others = {name: one for name, one in found.items() if name != READS}
    assert {*states(others).values()} == {"skipped"}
    assert others.keys() == {WRITES, EXPANDS, TWO_PODS, TWO_VOLUMES}
    assert "expansion" in others.pop(EXPANDS).message
    for one in others.values():
        assert "is read-only, but the test needs a read/write volume" in one.message


@pytest.mark.usefixtures("pods")
def test_tests_that_write_nothing_pass_though_they_skip_read_only_volumes(
    two_images: Definition, cluster: Cluster, tmp_path: Path
) -> None:
    found = storage_suite.run(two_images, cluster, tmp_path)
    expected = {**dict.fromkeys(APPLIES, "passed"), WRITES: "failed", EXPANDS: "skipped"}
    assert states(found) == expected, found
    assert "grep rw," in found[WRITES].message, "it must fail for want of a writable mount alone"
