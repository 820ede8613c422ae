"""A pass needs memory for its queues, not for its layer."""

import random
import re
from pathlib import Path

import pytest
from isal import igzip

from clipfs.layer.job import RANGES, PassProgress
from tests.layer.passes import first_pass, layer_of, workers
from tests.layer.tars import END, member
from tests.support.web import Asked, Reply, part_of, run_web

MOST_BYTES = 300 << 20
PAYLOAD_BYTES = 300 << 20
NOISE = random.Random(1).randbytes(1 << 20)


@pytest.mark.parametrize("in_ranges", [False, True], ids=["one-stream", "ranges"])
async def test_a_layer_of_300_mb_takes_less_memory_than_it_is_long(
    in_ranges: bool, tmp_path: Path
) -> None:
    payload = member(b"noise", NOISE * (PAYLOAD_BYTES // len(NOISE))) + END
    blob = igzip.compress(payload, 0)
    peaks: list[int] = []

    def on_progress(_: PassProgress) -> None:
        for worker in workers():  # none, if it has ended before we read its last words
            status = Path(f"/proc/{worker}/status").read_text()
            if found := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
                peaks.append(int(found[1]) << 10)

    def respond(asked: Asked) -> Reply:
        return part_of(blob, asked, 80e6) if in_ranges else Reply(body=blob)

    with run_web(respond, keep_alive=True) as web:
        layer, url = layer_of(blob, payload), f"http://{web.address}/blob"
        await first_pass(layer, url, tmp_path / "payload", on_progress=on_progress)
    assert (web.at_once["/blob"] >= RANGES.connections) == in_ranges
    assert len(peaks) > PAYLOAD_BYTES // (8 << 20)
    assert 0 < max(peaks) < MOST_BYTES, f"{max(peaks) >> 20} MiB"
    print(f"peak of the worker: {max(peaks) >> 20} MiB")
