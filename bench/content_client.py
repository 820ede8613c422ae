"""The content cache's client beside bare obstore: ranges of 1 MiB from the same server.

Both keep four requests in flight, on whatever cores they find. The client does what a node does
with the bytes: each chunk is checked by BLAKE3, and all are written to a file; obstore's are
dropped. One process each, the order alternates, medians are compared. Beside them, without a
bar, the client by TLS.

Run one side alone: `python -m bench.content_client client|obstore URL [CA_FILE]`
"""

import asyncio
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import Request, urlopen

import trio
from blake3 import blake3
from obstore.store import HTTPStore

from bench.measure import Bar, Figure, ratio, save, table
from clipfs.image.tls import load_ca_file
from clipfs.tiers.content.replicas import Replicas
from tests.support.content import TOKEN, key_of, run_content_server
from tests.support.registry import make_certificate

ROUNDS = 7
IN_FLIGHT = 4
PAGE_BYTES, RANGE_BYTES, CHUNK_BYTES = 8 << 20, 1 << 20, 128 << 10
PAGES = 8
TURNS = 8
LEAST = 0.5
"""Of obstore's speed."""

MEGABYTES = PAGES * TURNS * PAGE_BYTES / 1e6
Range = tuple[str, int]


def run() -> list[Bar]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        server = stack.enter_context(run_content_server(home / "plain"))
        for page in range(PAGES):
            server.ask("PUT", key_of(1, page), os.urandom(PAGE_BYTES))
        cert = make_certificate(home)
        words = ["--tls-cert", str(cert.cert), "--tls-key", str(cert.key)]
        shutil.copytree(server.objects, home / "tls/objects/objects")
        secure = stack.enter_context(run_content_server(home / "tls", *words))
        sides = {
            "client": ["client", server.url],
            "obstore": ["obstore", server.url],
            "client, TLS": ["client", secure.url.replace("http:", "https:"), str(cert.cert)],
        }
        figures = {name: Figure(name) for name in sides}
        for number in range(ROUNDS):
            for name in list(sides)[:: 1 if number % 2 else -1]:
                command = [sys.executable, "-m", "bench.content_client", *sides[name]]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                figures[name].seconds.append(float(done.stdout))
    speed = {name: MEGABYTES / figure.median_s for name, figure in figures.items()}
    bars = [ratio("client, of bare obstore", speed["client"] / speed["obstore"], least=LEAST)]
    print(f"{MEGABYTES:.0f} MB in ranges of 1 MiB, {IN_FLIGHT} in flight, one process each\n")
    rows = [[*figure.row(), f"{speed[name]:.0f}"] for name, figure in figures.items()]
    print(table(["", "median", "least", "most", "MB/s"], rows), "\n")
    print(table(["bar", "found", ""], [bar.row() for bar in bars]), "\n")
    save("content_client", figures.values(), bars)
    return bars


def _ranges() -> Iterator[Range]:
    for _ in range(TURNS):
        for page in range(PAGES):
            for first in range(0, PAGE_BYTES, RANGE_BYTES):
                yield key_of(1, page), first


async def _by_client(url: str, ca_file: str | None) -> float:
    """Seconds that the client takes."""
    todo = enumerate(_ranges())
    expected = await trio.to_thread.run_sync(_digests, url, ca_file)
    ca_pem = load_ca_file(Path(ca_file)) if ca_file else ""
    with tempfile.TemporaryFile() as file:
        async with Replicas.open([url], token=TOKEN, ca_pem=ca_pem) as store:

            async def work() -> None:
                for number, (key, first) in todo:
                    part = range(first, first + RANGE_BYTES)
                    found = await store.get(key, part=part, dear=True)
                    assert found is not None
                    view = memoryview(found.data)
                    for at in range(0, RANGE_BYTES, CHUNK_BYTES):
                        digest = blake3(view[at : at + CHUNK_BYTES]).digest()
                        assert digest == expected[key, first + at]
                    os.pwrite(file.fileno(), view, number * RANGE_BYTES)

            begin = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(IN_FLIGHT):
                    nursery.start_soon(work)
            return time.perf_counter() - begin


async def _by_obstore(url: str) -> float:
    """Seconds that obstore takes."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    store = HTTPStore.from_url(
        f"{url}/v1/objects", client_options={"allow_http": True, "default_headers": headers}
    )
    todo = _ranges()

    async def work() -> None:
        for key, first in todo:
            data = await store.get_range_async(key, start=first, length=RANGE_BYTES)
            assert len(data) == RANGE_BYTES

    begin = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return time.perf_counter() - begin


def _digests(url: str, ca_file: str | None) -> dict[Range, bytes]:
    """Of every chunk, as an index has them: from the pages, before time is taken."""
    found = {}
    context = ssl.create_default_context(cafile=ca_file)
    for key in dict.fromkeys(key for key, _ in _ranges()):
        request = Request(f"{url}/v1/objects/{key}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urlopen(request, context=context) as answer:
            page = answer.read()
        for at in range(0, PAGE_BYTES, CHUNK_BYTES):
            found[key, at] = blake3(page[at : at + CHUNK_BYTES]).digest()
    return found


SIDES: dict[str, Callable[..., float]] = {
    "client": lambda url, ca_file=None: trio.run(_by_client, url, ca_file),
    "obstore": lambda url: asyncio.run(_by_obstore(url)),
}

if __name__ == "__main__":
    print(SIDES[sys.argv[1]](*sys.argv[2:]), flush=True)
    os._exit(0)  # obstore's threads may still run, and abort an interpreter that ends
