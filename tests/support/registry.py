"""A real registry (CNCF distribution, Debian's docker-registry), mostly on a free loopback port."""

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
http: {{addr: "{address}"{tls}}}
log: {{accesslog: {{disabled: false}}, level: info, formatter: json}}
{auth}
"""
_LISTENING = re.compile(r"listening on ([\d.]+:\d+)")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and its key, PEM files."""

    cert: Path
    key: Path


def make_certificate(home: Path) -> Certificate:
    """Good for TLS on loopback, and for signing tokens."""
    made = Certificate(cert=home / "cert.pem", key=home / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test",
               "-addext", "subjectAltName=IP:127.0.0.1",
               "-addext", "keyUsage=critical,digitalSignature,keyCertSign",
               "-keyout", str(made.key), "-out", str(made.cert)]  # fmt: skip  # as typed by hand
    subprocess.run(command, check=True, capture_output=True)
    return made


def issue_certificate(home: Path, ca: Certificate) -> Certificate:
    """One for 127.0.0.1 that ca has signed: some clients take no CA's as a server's own."""
    issued = Certificate(cert=home / "issued.pem", key=home / "issued-key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=issued",
               "-CA", str(ca.cert), "-CAkey", str(ca.key),
               "-addext", "subjectAltName=IP:127.0.0.1",
               "-addext", "basicConstraints=critical,CA:FALSE",
               "-keyout", str(issued.key), "-out", str(issued.cert)]  # fmt: skip  # as above
    subprocess.run(command, check=True, capture_output=True)
    return issued


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAuth:
    """What a registry is told of its token server; tokens are signed with certificate's key."""

    realm: str
    service: str
    issuer: str
    certificate: Certificate


@contextmanager
def run_registry(
    home: Path,
    *,
    htpasswd: Path | None = None,
    token: TokenAuth | None = None,
    tls: Certificate | None = None,
    address: str = "127.0.0.1:0",
) -> Iterator[RegistryServer]:
    """A registry that holds what one at the same home held, an empty one at first; with htpasswd
    (bcrypt lines) it wants basic credentials, with token a token of that server; with tls it
    speaks HTTPS.

    address  where it listens: that of one that has ended, to take its place
    """
    home.mkdir(parents=True, exist_ok=True)
    config, log = home / "config.yml", home / "log"
    config.write_text(
        _CONFIG.format(
            home=home,
            address=address,
            auth=_auth(htpasswd, token),
            tls=f", tls: {{certificate: {tls.cert}, key: {tls.key}}}" if tls else "",
        )
    )
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


def write_htpasswd(path: Path, users: dict[str, str]) -> Path:
    """The file that opens a registry to users: passwords by name."""
    lines = [
        subprocess.run(
            ["htpasswd", "-Bbn", name, password], capture_output=True, text=True, check=True
        ).stdout
        for name, password in users.items()
    ]
    path.write_text("".join(lines))
    return path


def _auth(htpasswd: Path | None, token: TokenAuth | None) -> str:
    if htpasswd:
        return f"auth: {{htpasswd: {{realm: test, path: {htpasswd}}}}}"
    if token:
        return (
            f'auth: {{token: {{realm: "{token.realm}", service: {token.service}, '
            f"issuer: {token.issuer}, rootcertbundle: {token.certificate.cert}}}}}"
        )
    return ""
