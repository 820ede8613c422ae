"""A content cache as a process of its own, and plain HTTP to speak to it."""

import base64
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clipfs.tiers.content.connection import Endpoint
from tests.support.machine import CLIPFS
from tests.support.wait import wait_for
from tests.support.write_points import WritePoints

TOKEN, READ_TOKEN = "secret", "may only read"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


def layer_of(number: int) -> str:
    """The cache key of layer number."""
    return f"sha256_{number:064x}"


def key_of(number: int, page: int | None = 0) -> str:
    """A key of layer number: a page's, or the index's if page is None."""
    return f"{layer_of(number)}.v1.toc" if page is None else f"{layer_of(number)}/{page:06d}"


def endpoint_of(url: str) -> Endpoint:
    """Of a URL with a numeric host."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    tls = parts.scheme == "https"
    return Endpoint(host=parts.hostname, address=parts.hostname, port=parts.port, tls=tls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True)
class ContentServer:
    """A running content cache. Objects lie below `objects`, uploads below `incoming`.

    directory  its --dir
    """

    process: subprocess.Popen[bytes]
    host: str = "127.0.0.1"
    port: int
    folder: Path
    log: Path
    directory: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def objects(self) -> Path:
        return self.directory / "objects"

    @property
    def incoming(self) -> Path:
        return self.directory / "incoming"

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        token: str | None = TOKEN,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own; target is a key, or a path with its slash.

        A PUT of an object has the digest of body, unless headers have one.
        """
        path = target if target.startswith("/") else f"/v1/objects/{target}"
        sent = {"Authorization": f"Bearer {token}"} if token else {}
        if method == "PUT" and path.startswith("/v1/objects/"):
            sent["Content-Digest"] = content_digest(body or b"")
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            connection.request(method, path, body, {**sent, **(headers or {})})
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(status=answer.status, headers=fields, body=answer.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """A raw connection; reads from it give up after ten seconds."""
        return socket.create_connection((self.host, self.port), timeout=10)

    def begin_upload(self, connection: socket.socket, key: str, sent: bytes, whole: bytes) -> None:
        """Send the head of a PUT of whole, and its first bytes; return once they are received."""
        before = len(list(self.incoming.iterdir()))
        head = request("PUT", key, f"Content-Length: {len(whole)}", body=sent, whole=whole)
        connection.sendall(head)
        wait_for(lambda: len(list(self.incoming.iterdir())) > before)

    def is_listening(self) -> bool:
        """Seen without a connection of our own."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return any(one[1].endswith(f":{self.port:04X}") and one[3] == "0A" for one in lines)

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def workers(self) -> list[int]:
        """The process ids of its workers, as many as there are now."""
        pid = self.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        for pid in (self.process.pid, *self.workers()):
            os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL to the parent, whose workers end with it."""
        workers = self.workers()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        wait_for(lambda: all(has_ended(pid) for pid in workers))


def has_ended(pid: int) -> bool:
    """Whether a process runs no more; one that nobody reaps has ended, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def content_digest(data: bytes) -> str:
    """The value of Content-Digest. Source: RFC 9530."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def request(
    method: str,
    key: str,
    *lines: str,
    token: str = TOKEN,
    body: bytes = b"",
    whole: bytes | None = None,
) -> bytes:
    """The bytes of a request, for a raw connection.

    whole  what the body of a PUT will be in the end; None: body is all of it
    """
    fields = [f"{method} /v1/objects/{key} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}"]
    if method == "PUT":
        fields.append(f"Content-Digest: {content_digest(body if whole is None else whole)}")
    return "\r\n".join([*fields, *lines, "", ""]).encode() + body


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer on a raw connection, and not a byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError(f"the server closed after {head!r}")
        head += byte
    length = _LENGTH.search(head)
    wanted, body = int(length[1]) if length else 0, b""
    while len(body) < wanted and (piece := connection.recv(wanted - len(body))):
        body += piece
    return int(head.split()[1]), body


def read_to_end(connection: socket.socket) -> bytes:
    """What comes on a raw connection until the server closes it."""
    received = b""
    while piece := connection.recv(1 << 20):
        received += piece
    return received


def failed_start(*options: str, cwd: Path) -> tuple[int, str]:
    """Exit status and stderr of a server that cannot start with these options."""
    command = [CLIPFS, "content-cache", "serve", *options]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stderr


@contextmanager
def run_content_server(
    folder: Path,
    *options: str,
    directory: Path | None = None,
    under: WritePoints | None = None,
    within: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 0,
) -> Iterator[ContentServer]:
    """A server on folder, where an earlier one may have run; it ends by SIGTERM, with 0.

    directory  its --dir, if that is to be elsewhere than below folder
    under      what sees, and may spoil, its writing system calls
    within     words before the command: of a network namespace, in which host is then
    port       0: a free one
    """
    folder.mkdir(parents=True, exist_ok=True)
    out, log = folder / "out", folder / "log"
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "read-token").write_text(READ_TOKEN + "\n")
    directory = directory or folder / "objects"
    command = [
        *within, CLIPFS, "content-cache", "serve", "--dir", str(directory), *options,
        "--listen", f"{host}:{port}", "--token-file", str(folder / "token"),
        "--read-token-file", str(folder / "read-token"),
        "--json", "--log-format", "json", "--log-level", "debug",
    ]  # fmt: skip
    kept = [under.starter.fileno()] if under else []
    if under:
        command = [*under.prefix(), *command]
    with out.open("wb") as stdout, log.open("ab") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, pass_fds=kept)
    try:
        wait_for(lambda: process.poll() is not None or bool(out.read_text()))
        said = json.loads(out.read_text())
        yield ContentServer(
            process=process,
            host=host,
            port=said["port"],
            folder=folder,
            log=log,
            directory=directory,
        )
        if process.poll() is None:
            process.terminate()
            assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
