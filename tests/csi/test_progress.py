"""How far a mount is, in words: golden texts, and the speed that they tell."""

import pytest

from clipfs.cli.progress import Phase, Told
from clipfs.image.digest import Digest
from clipfs.image.model import Image, Layer
from clipfs.image.reference import parse_reference
from csi.progress import LATELY_S, Meter, in_words
from csi.status.reporter import WorkProgress
from tests.cli.test_progress import Clock

MB, GB = 10**6, 10**9


def at(
    done: int,
    total: int,
    speed: float,
    *,
    layer: int = 3,
    phase: Phase = "index",
    anothers: bool = False,
) -> WorkProgress:
    return WorkProgress(
        phase=phase, layer=layer, layers=7, done_bytes=done, total_bytes=total,
        bytes_per_s=speed, is_anothers=anothers,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (at(1_200 * MB, 2_900 * MB, 85 * MB),
         "indexing layer 3 of 7: 41%, 1.2 of 2.9 GB, 85 MB/s, about 20 s left"),
        (at(1_200 * MB, 2_900 * MB, 85 * MB, anothers=True),
         "layer 3 of 7: waiting for another node, which has 41%, 1.2 of 2.9 GB, 85 MB/s, "
         "about 20 s left"),
        (at(1_200 * MB, 2_900 * MB, 85 * MB, phase="bring"),
         "downloading layer 3 of 7: 41%, 1.2 of 2.9 GB, 85 MB/s, about 20 s left"),
        (at(1_200 * MB, 2_900 * MB, 85 * MB, phase="prove"),
         "downloading layer 3 of 7 as proof that its registry has it: 41%, 1.2 of 2.9 GB, "
         "85 MB/s, about 20 s left"),
        (at(0, 0, 0, layer=0, phase="prove"),
         "asking its registry for proof of 7 layers"),
        (at(0, 20 * GB, 0), "indexing layer 3 of 7: 0%, 0 of 20 GB, nothing comes just now"),
        (at(31 * MB, 20 * GB, 1.5 * MB),
         "indexing layer 3 of 7: 0%, 31 MB of 20 GB, 1.5 MB/s, about 4 h left"),
        (at(700, 900, 50), "indexing layer 3 of 7: 77%, 700 of 900 B, 50 B/s, "
         "about 4 s left"),
        (at(512_000, 1 * MB, 100_000),
         "indexing layer 3 of 7: 51%, 512 kB of 1 MB, 100 kB/s, about 5 s left"),
        (at(19_990 * MB, 20 * GB, 100 * MB),
         "indexing layer 3 of 7: 99%, 20 of 20 GB, 100 MB/s, about 1 s left"),
        (at(2 * GB, 20 * GB, 50 * MB),
         "indexing layer 3 of 7: 10%, 2 of 20 GB, 50 MB/s, about 6 min left"),
        (at(0, 0, 0, layer=0), "indexing 7 layers"),
        (at(0, 0, 0, layer=0, phase="bring"), "bringing 7 layers to this node's disk"),
        (at(0, 0, 0, layer=0, phase="merge"), "merging 7 layers into one tree"),
        (at(5, 9, 1, phase="merge"), "merging 7 layers into one tree"),
        (at(0, 0, 0, layer=0, phase="mount"), "mounting"),
        (None, "waiting for its turn"),
    ],
)  # fmt: skip
def test_progress_reads_as_people_say_it(progress: WorkProgress | None, words: str) -> None:
    assert in_words(progress) == words


def image(*sizes: int) -> Image:
    layers = tuple(
        Layer(digest=digest(number), size=size, media_type="", diff_id=None)
        for number, size in enumerate(sizes, 1)
    )
    reference = parse_reference("h.io/a:1")
    return Image(reference=reference, digest=digest(0), layers=layers)


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def told(
    number: int, done: int, total: int, *, anothers: bool = False, phase: Phase = "index"
) -> Told:
    return Told(
        phase=phase, digest=digest(number), done_bytes=done, total_bytes=total,
        is_anothers=anothers,
    )  # fmt: skip


def test_of_layers_side_by_side_the_lowest_on_its_way_is_told() -> None:
    meter = Meter(image(100, 100, 100), Clock())
    assert meter.progress().layer == 0
    meter.told(told(3, 10, 100))
    assert meter.progress().layer == 3
    meter.told(told(2, 99, 100))
    assert meter.progress().layer == 2
    meter.told(told(2, 100, 100))
    assert meter.progress().layer == 3
    meter.told(told(3, 100, 100))
    assert (meter.progress().layer, meter.progress().layers) == (0, 3)


def test_speed_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    meter = Meter(image(10_000), clock)
    for step in range(20):
        meter.told(told(1, 10 * step if step < 10 else 90 + 100 * (step - 9), 10_000))
        clock.now += 1
    assert meter.progress().bytes_per_s == pytest.approx(100, rel=0.12)
    assert meter.progress().left_s == pytest.approx((10_000 - 1090) / 100, rel=0.12)


def test_what_stands_still_has_no_speed_and_no_end() -> None:
    clock = Clock()
    meter = Meter(image(1000), clock)
    meter.told(told(1, 0, 1000))
    assert meter.progress().left_s is None
    clock.now += 1
    meter.told(told(1, 100, 1000))
    assert meter.progress().bytes_per_s == 100
    clock.now += 1
    assert meter.progress().bytes_per_s == 50
    clock.now += LATELY_S
    assert (meter.progress().bytes_per_s, meter.progress().left_s) == (0, None)


def test_what_comes_every_seven_seconds_has_a_speed_all_the_time() -> None:
    clock = Clock()
    meter = Meter(image(1000), clock)
    meter.told(told(1, 0, 1000))
    clock.now += 7
    for step in range(1, 10):
        meter.told(told(1, 70 * step, 1000))
        for _ in range(7):
            clock.now += 1
            assert meter.progress().bytes_per_s > 0


def test_another_nodes_progress_is_told_as_anothers_until_its_own_comes() -> None:
    clock = Clock()
    meter = Meter(image(1000), clock)
    meter.told(told(1, 50, 1000, anothers=True))
    assert meter.progress().is_anothers
    clock.now += 1
    meter.told(told(1, 100, 1000))
    assert (meter.progress().is_anothers, meter.progress().bytes_per_s) == (False, 0)
    clock.now += 1
    meter.told(told(1, 300, 1000))
    assert meter.progress().bytes_per_s == 200


def test_a_layer_that_is_proved_is_told_as_such_beside_one_that_is_indexed() -> None:
    clock = Clock()
    meter = Meter(image(1000, 1000), clock)
    meter.told(told(1, 50, 1000))
    meter.told(told(2, 10, 1000, phase="prove"))
    assert (meter.progress().phase, meter.progress().layer) == ("index", 1)
    meter.told(told(1, 1000, 1000))
    assert (meter.progress().phase, meter.progress().layer) == ("prove", 2)
    meter.told(told(2, 1000, 1000, phase="prove"))
    assert (meter.progress().phase, meter.progress().layer) == ("index", 0)
    clock.now += 1
    meter.told(told(1, 0, 1000, phase="prove"))
    assert meter.progress().bytes_per_s == 0, "what was indexed is another download"


def test_what_a_mount_has_read_is_kept_and_a_digest_of_no_layer_is_passed_over() -> None:
    meter = Meter(image(1000), Clock())
    meter.told(Told(phase="mount", bytes_by_tier={"registry": 7}))
    meter.told(told(9, 1, 2))
    assert meter.bytes_by_tier == {"registry": 7}
    assert meter.progress().layer == 0
