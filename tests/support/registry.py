"""A real registry (CNCF distribution, Debian's docker-registry) on a free loopback port."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.wait import wait_for

_CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {home}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:0"}}
log: {{accesslog: {{disabled: false}}, level: info, formatter: json}}
{auth}
"""
_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")
_REQUEST = re.compile(r'"(GET|HEAD|PUT|POST|PATCH) (\S+) HTTP/1\.1" (\d+)')


@dataclass(frozen=True, slots=True)
class RegistryServer:
    """A running registry: `address` is host:port."""

    address: str
    log: Path

    def requests(self) -> list[tuple[str, str, int]]:
        """What it was asked so far: method, path, status."""
        found = _REQUEST.findall(self.log.read_text())
        return [(method, path, int(status)) for method, path, status in found]

    def blob_reads(self) -> list[str]:
        """Paths of the blobs that were read, with success, so far."""
        return [
            path
            for method, path, status in self.requests()
            if method == "GET" and "/blobs/" in path and status < 300
        ]


@contextmanager
def run_registry(home: Path, *, htpasswd: Path | None = None) -> Iterator[RegistryServer]:
    """An empty registry; with htpasswd (bcrypt lines) it wants basic credentials."""
    home.mkdir(parents=True, exist_ok=True)
    auth = f"auth: {{htpasswd: {{realm: test, path: {htpasswd}}}}}" if htpasswd else ""
    config, log = home / "config.yml", home / "log"
    config.write_text(_CONFIG.format(home=home, auth=auth))
    command = ["docker-registry", "serve", str(config)]
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as server,
    ):
        try:
            match = wait_for(lambda: _LISTENING.search(log.read_text()))
            yield RegistryServer(match[1], log)
        finally:
            server.terminate()
