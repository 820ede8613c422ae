"""What /metrics says of a real driver, its servers and the bytes that they have moved."""

import os
from pathlib import Path
from typing import Any

from tests.csi.conftest import Lazy, Start
from tests.support.driver import Driver, failure, servers
from tests.support.machine import needs_fuse
from tests.support.node import Node, kill
from tests.support.scraped import METRICS, Scraped, listening_ports, scraped
from tests.support.wait import wait_for

pytestmark = needs_fuse

TIERS = {"disk", "content_cache", "registry"}
CHUNK_BYTES = 131_072
CONTRACT: dict[str, tuple[str, dict[str, set[str]]]] = {
    "clip_read_bytes": ("counter", {"tier": TIERS}),
    "clip_reads": ("counter", {"tier": TIERS}),
    "clip_read_seconds": ("histogram", {"tier": TIERS}),
    "clip_registry_download_bytes": ("counter", {}),
    "clip_failed_reads": ("counter", {}),
    "clip_layers_indexed": ("counter", {}),
    "clip_chunk_verify_failures": ("counter", {}),
    "clip_content_cache_errors": ("counter", {}),
    "clip_mounts": ("gauge", {}),
    "clip_publish_seconds": ("histogram", {"code": {"OK", "NOT_FOUND", "INVALID_ARGUMENT"}}),
    "clip_cache_bytes": ("gauge", {}),
    "clip_cache_evictions": ("counter", {}),
    "clip_server_takeovers": ("counter", {}),
    "clip_build_info": ("gauge", {"version": {"0.1.0"}}),
}
"""Each name with its type, its labels and the values that they have in the test."""


def stats(root: Path) -> Any:
    return Node(root).json("stats")


def read(path: Path, offset: int, length: int) -> bytes:
    """Just these bytes: from the volume, not from the kernel's memory, and nothing ahead."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def as_stats_tell(driver: Driver, root: Path) -> Scraped:
    """A scrape that says just what `clipfs stats` says, once nothing moves behind the reads."""

    def both() -> tuple[Scraped, Any] | None:
        found, told = scraped(driver), stats(root)
        return (found, told) if scraped(driver).totals() == found.totals() else None

    found, told = wait_for(both)
    for tier in TIERS:
        assert found["clip_reads_total", tier] == told[tier]["reads"]
        assert found["clip_read_bytes_total", tier] == told[tier]["bytes"]
        assert found["clip_read_seconds_count", tier] == told[tier]["reads"]
        assert (found["clip_read_seconds_sum", tier] > 0) == (told[tier]["reads"] > 0)
    assert found["clip_registry_download_bytes_total"] == told["registry"]["bytes"]
    troubles = told["content_cache"]
    assert found["clip_content_cache_errors_total"] == troubles["errors"]
    assert found["clip_chunk_verify_failures_total"] == troubles["verify_failures"]
    return found


def test_every_name_of_the_contract_is_there_and_no_label_says_more_than_it_may(
    start: Start, image: str
) -> None:
    driver = start(*METRICS)
    (driver.publish("pod", image) / "hello").read_text()
    assert failure(lambda: driver.publish("other", f"{image}-none"))[0] == "NOT_FOUND"
    assert failure(lambda: driver.publish("third", "UPPER"))[0] == "INVALID_ARGUMENT"
    found = scraped(driver)
    assert found.types == {name: kind for name, (kind, _) in CONTRACT.items()}
    for name, (_, labels) in CONTRACT.items():
        assert found.values_of(name) == labels
    assert found["clip_publish_seconds_count", "OK"] == 1
    assert found["clip_publish_seconds_count", "NOT_FOUND"] == 1
    assert found["clip_server_takeovers_total"] == 0


def test_each_tier_is_told_with_what_it_moved(
    lazy: Lazy, blob_bytes: int, layout_data: bytes, tmp_path: Path
) -> None:
    root, data = tmp_path / "root", lazy.target / "data"
    before = scraped(lazy.driver)
    assert [before["clip_reads_total", tier] for tier in sorted(TIERS)] == [0, 0, 0]
    assert before["clip_layers_indexed_total"] == 0, "another node has indexed it"

    assert read(data, 0, 100) == layout_data[:100]
    near = as_stats_tell(lazy.driver, root)
    assert near["clip_read_bytes_total", "content_cache"] % CHUNK_BYTES == 0
    assert near["clip_reads_total", "content_cache"] > 0
    assert near["clip_read_bytes_total", "registry"] == 0

    (key,) = (f"{page.parent.name}/{page.name}" for page in lazy.cache.objects.rglob("000000"))
    etag = lazy.cache.ask("HEAD", key).headers["etag"]
    assert lazy.cache.ask("DELETE", key, headers={"If-Match": etag}).status < 300
    assert read(data, 2 << 20, 100) == layout_data[2 << 20 :][:100]
    wait_for(lambda: list((root / "cache").iterdir()))
    far = as_stats_tell(lazy.driver, root)
    assert far["clip_reads_total", "registry"] > 0
    assert far["clip_read_bytes_total", "registry"] == blob_bytes

    assert read(data, 0, len(layout_data)) == layout_data
    last = as_stats_tell(lazy.driver, root)
    assert last["clip_read_bytes_total", "disk"] - far["clip_read_bytes_total", "disk"] == len(
        layout_data
    )
    assert last["clip_read_bytes_total", "registry"] == blob_bytes


def test_the_content_cache_counts_what_its_nodes_count(
    lazy: Lazy, layout_data: bytes, tmp_path: Path
) -> None:
    assert read(lazy.target / "data", 1 << 20, 100) == layout_data[1 << 20 :][:100]
    assert read(lazy.target / "data", 0, len(layout_data)) == layout_data
    received = as_stats_tell(lazy.driver, tmp_path / "root")[
        "clip_read_bytes_total", "content_cache"
    ]
    sent = Scraped(lazy.cache.ask("GET", "/metrics", token=None).body.decode())
    assert sent["clip_content_cache_sent_page_bytes_total"] == received > len(layout_data)


def test_wrong_bytes_of_the_content_cache_are_told(
    lazy: Lazy, layout_data: bytes, tmp_path: Path
) -> None:
    for page in lazy.cache.objects.rglob("000000"):
        page.write_bytes(bytes(page.stat().st_size))
    assert read(lazy.target / "data", 0, 100) == layout_data[:100]
    wait_for(lambda: list((tmp_path / "root/cache").iterdir()))
    found = as_stats_tell(lazy.driver, tmp_path / "root")
    assert found["clip_chunk_verify_failures_total"] > 0


def test_a_content_cache_that_does_not_answer_is_told(
    start: Start, image: str, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("the cluster's key\n")
    driver = start(
        *METRICS, "--content-cache", "http://127.0.0.1:1", "--index-key-file", f"{tmp_path}/key"
    )
    driver.publish("pod", image)
    found = as_stats_tell(driver, tmp_path / "root")
    assert found["clip_content_cache_errors_total"] > 0


def test_sums_do_not_fall_with_servers_volumes_and_drivers_that_end(
    lazy: Lazy, start: Start, tmp_path: Path
) -> None:
    (lazy.target / "hello").read_text()
    root, driver = tmp_path / "root", lazy.driver
    first = as_stats_tell(driver, root)
    assert (first["clip_mounts"], first["clip_reads_total", "content_cache"] > 0) == (1, True)
    kill(servers(root)[0])
    second = scraped(driver)
    assert second["clip_mounts"] == 0, "nobody answers its reads"
    driver.unpublish("pod")
    third = scraped(driver)
    driver.process.terminate()
    driver.process.wait(20)
    fourth = scraped(start(*METRICS))
    for before, after in ((first, second), (second, third), (third, fourth)):
        kept = {key: value for key, value in before.totals().items() if "publish" not in key[0]}
        assert {key: after.totals()[key] for key in kept} == kept
    assert fourth["clip_publish_seconds_count", "OK"] == 0, "the new driver's own"


def test_what_the_cache_holds_and_gives_up_is_told(
    start: Start, image: str, other_image: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    driver = start(*METRICS, "--max-bytes", "1")
    driver.publish("pod", image)
    held: int = Node(root).json("cache list")["bytes"]
    assert held > 3 << 20
    wait_for(lambda: scraped(driver)["clip_cache_bytes"] == held)
    found = scraped(driver)
    assert (found["clip_layers_indexed_total"], found["clip_mounts"]) == (1, 1)
    assert found["clip_cache_evictions_total"] == 0
    driver.unpublish("pod")
    wait_for(lambda: not servers(root))  # it holds its layers to its end
    driver.publish("other", other_image)  # for which room is made
    assert scraped(driver)["clip_cache_evictions_total"] == 1
    left: int = Node(root).json("cache list")["bytes"]
    assert left < 1 << 20
    wait_for(lambda: scraped(driver)["clip_cache_bytes"] == left)


def test_an_eviction_by_another_process_counts(start: Start, image: str, tmp_path: Path) -> None:
    driver = start(*METRICS)
    driver.publish("pod", image)
    driver.unpublish("pod")
    Node(tmp_path / "root").json("cache collect", "--max-bytes", "0")
    assert scraped(driver)["clip_cache_evictions_total"] == 1


def test_a_mount_that_the_kernel_serves_alone_is_among_the_mounts(start: Start, image: str) -> None:
    driver = start(*METRICS, "--front", "auto")
    target = driver.publish("pod", image)
    (target / "hello").read_text()
    assert scraped(driver)["clip_mounts"] == 1


def test_no_port_is_opened_unless_it_is_asked_for(start: Start) -> None:
    driver = start()
    assert listening_ports(driver.process.pid) == []
    driver.process.terminate()
    driver.process.wait(20)
    assert len(listening_ports(start(*METRICS).process.pid)) == 1
