"""A pass needs memory for its queues, not for its layer."""

import random
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from isal import igzip

from clipfs.image.model import BlobSource
from clipfs.layer.job import RANGES, WORKER, Job, PassProgress
from clipfs.layer.limits import MAX_ENTRY_BYTES, MAX_XATTR_BYTES
from tests.layer.passes import first_pass, layer_of, workers
from tests.layer.tars import END, member, records
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


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, close_fds=False, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_a_layer_whose_entries_are_as_large_as_they_may_be_takes_no_more(tmp_path: Path) -> None:
    one = records({b"SCHILY.xattr.user.x": bytes(MAX_XATTR_BYTES - 100)}) + member(b"x")
    payload = one * (MAX_ENTRY_BYTES // MAX_XATTR_BYTES) + END
    blob = igzip.compress(payload, 0)
    layer = layer_of(blob, payload)
    with run_web(lambda _: Reply(body=blob)) as web, (tmp_path / "payload").open("w+b") as file:
        source = BlobSource(url=f"http://{web.address}/blob", headers={})
        job = Job(digest=layer.digest, size=layer.size, diff_id=layer.diff_id, source=source,
                  stall_s=60, payload_fd=file.fileno())  # fmt: skip
        command = [sys.executable, "-c", PEAK, sys.executable, "-P", "-m", WORKER, str(1 << 30)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              pass_fds=[file.fileno()]) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(msgspec.json.encode(job) + b"\n")
            process.stdin.flush()
            peak_bytes = int(process.stdout.read()) << 10
    assert MAX_ENTRY_BYTES < peak_bytes < MOST_BYTES, f"{peak_bytes >> 20} MiB"
    print(f"peak of the worker: {peak_bytes >> 20} MiB")
