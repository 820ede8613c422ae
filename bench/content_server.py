"""The content cache's server beside nginx: ranges of the same files a second, from one core each.

Both have one process that serves, pinned to the same core; wrk has the other. nginx reads the
server's own files, with sendfile and connections kept. Eight connections, each with the next
request as soon as it has the answer. The order alternates; a bar is about the
median of the rounds' ratios.
"""

import os
import re
import socket
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.measure import Bar, Figure, ratio, save, table, version
from tests.support.content import TOKEN, ContentServer, key_of, run_content_server
from tests.support.wait import wait_for

ROUNDS = 5
SECONDS = 2
CONNECTIONS = 8
PAGE_BYTES = 8 << 20
PAGES = 4
LEAST = {1 << 20: 1.0, 128 << 10: 0.6, 16 << 10: 0.3}
"""Of nginx's requests a second, by the bytes of a range."""

SERVER_CORE, CLIENT_CORE = "0", "1"
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")

NGINX = """
user root;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/nginx.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 60;
    keepalive_requests 1000000000;
    server {{ listen 127.0.0.1:{port}; root {home}/www; }}
}}
"""

REQUESTS = """
local requests = {{}}
for page = 0, {pages} - 1 do
  for first = 0, {page_bytes} - 1, {size} do
    requests[#requests + 1] = string.format("GET /v1/objects/{layer}/%06d HTTP/1.1\\r\\n" ..
      "Host: x\\r\\nAuthorization: Bearer {token}\\r\\nAccept: */*\\r\\n" ..
      "Range: bytes=%d-%d\\r\\n\\r\\n", page, first, first + {size} - 1)
  end
end
local n = 0
request = function()
  n = (n + 7) % #requests
  return requests[n + 1]
end
"""
"""Made beforehand: what wrk spends is no server's."""


@contextmanager
def nginx(home: Path, server: ContentServer) -> Iterator[str]:
    """nginx over the server's objects; its URL."""
    (home / "www" / "v1").mkdir(parents=True)
    (home / "www" / "v1" / "objects").symlink_to(server.objects)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = home / "nginx.conf"
    config.write_text(NGINX.format(home=home, port=port))
    command = ["nginx", "-c", str(config), "-e", f"{home}/nginx.log", "-g", "daemon off;"]
    process = subprocess.Popen(["taskset", "-c", SERVER_CORE, *command])
    try:
        wait_for((home / "nginx.pid").exists)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def rate(url: str, script: Path) -> float:
    """Requests a second; AssertionError unless every answer was a good one."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}", "-s", str(script), url]
    done = subprocess.run(
        ["taskset", "-c", CLIENT_CORE, *command], capture_output=True, text=True, check=True
    )
    assert "Non-2xx" not in done.stdout, done.stdout
    assert "Socket errors" not in done.stdout, done.stdout
    found = _RATE.search(done.stdout)
    assert found, done.stdout
    return float(found[1])


@contextmanager
def prepared(home: Path) -> Iterator[dict[str, str]]:
    """Both servers, with the same pages; their URLs by name."""
    with ExitStack() as stack:
        ours = stack.enter_context(run_content_server(home / "ours", "--workers", "1"))
        for page in range(PAGES):
            assert ours.ask("PUT", key_of(1, page), os.urandom(PAGE_BYTES)).status == 201
        for pid in (ours.process.pid, *ours.workers()):
            subprocess.run(
                ["taskset", "-pc", SERVER_CORE, str(pid)], check=True, capture_output=True
            )
        yield {"ours": ours.url, "nginx": stack.enter_context(nginx(home / "nginx", ours))}


def run(rounds: int = ROUNDS) -> list[Bar]:
    """Measure, print, save; the bars."""
    figures: dict[tuple[str, int], Figure] = {}
    with tempfile.TemporaryDirectory(prefix="clip-bench-") as folder, prepared(Path(folder)) as it:
        for size in LEAST:
            script = Path(folder, f"{size}.lua")
            script.write_text(
                REQUESTS.format(
                    pages=PAGES, page_bytes=PAGE_BYTES, size=size, token=TOKEN,
                    layer=key_of(1).partition("/")[0],
                )
            )  # fmt: skip # what belongs together
            for number in range(rounds):
                for name in sorted(it, reverse=number % 2 == 1):
                    figure = figures.setdefault((name, size), Figure(f"{name}, {words(size)}"))
                    figure.seconds.append(1 / rate(it[name], script))
    bars = [
        ratio(f"{words(size)}: requests a second, beside nginx's",
              median_ratio(figures["nginx", size], figures["ours", size]), least=least)
        for size, least in LEAST.items()
    ]  # fmt: skip # one a line
    print(f"ranges of {PAGES} pages, {CONNECTIONS} connections, one core each, {rounds} rounds of "
          f"{SECONDS} s, order alternating; requests a second")  # fmt: skip # as it is printed
    print(f"{version('nginx', '-v')}; {wrk_version()}\n")
    rows = [
        [one.name, *map(per_second, (one.median_s, max(one.seconds), min(one.seconds)))]
        for one in figures.values()
    ]
    print(table(["server, bytes of a range", "median", "least", "most"], rows) + "\n")
    print(table(["bar", "found", ""], [bar.row() for bar in bars]) + "\n")
    save("content-server", figures.values(), bars)
    return bars


def median_ratio(one: Figure, other: Figure) -> float:
    """Of the rounds: both of a round had the same neighbours."""
    pairs = zip(one.seconds, other.seconds, strict=True)
    return statistics.median(left / right for left, right in pairs)


def words(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def per_second(seconds: float) -> str:
    return f"{1 / seconds:.0f}"


def wrk_version() -> str:
    done = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    return " ".join(done.stdout.split()[:2])


if __name__ == "__main__":
    run()
