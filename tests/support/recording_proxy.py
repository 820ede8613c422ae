"""A relay before a content cache that writes down which objects pass: method, key, status."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.relay import OnPiece, relay

_REQUEST = re.compile(rb"(GET|HEAD|PUT|DELETE) /v1/objects/(\S+) HTTP/1\.1\r\n")
_ANY_REQUEST = re.compile(rb"[A-Z]+ /\S* HTTP/1\.1\r\n")
_STATUS = re.compile(rb"HTTP/1\.1 (\d+)")


@dataclass(slots=True)
class Recorder:
    """`exchanges` in the order of their answers."""

    url: str = ""
    exchanges: list[tuple[str, str, int]] = field(default_factory=list)

    def keys(self, method: str) -> set[str]:
        return {key for asked, key, _ in self.exchanges if asked == method}

    def on_connection(self) -> OnPiece:
        """A client asks when it has its answer."""
        asked: tuple[bytes, bytes] | None = None

        def on_piece(piece: bytes, is_answer: bool) -> None:
            nonlocal asked
            if not is_answer and _ANY_REQUEST.match(piece):
                match = _REQUEST.match(piece)
                asked = (match[1], match[2]) if match else None
            status = _STATUS.match(piece) if is_answer else None
            if asked and status and status[1] != b"100":
                self.exchanges.append((asked[0].decode(), asked[1].decode(), int(status[1])))

        return on_piece


@contextmanager
def recording_proxy(upstream_port: int) -> Iterator[Recorder]:
    """The recorder of everything that goes through its url to the port, until the block ends."""
    recorder = Recorder()
    with relay(f"127.0.0.1:{upstream_port}", recorder.on_connection) as address:
        recorder.url = f"http://{address}"
        yield recorder
