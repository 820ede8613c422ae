"""A proxy in front of a real registry, on loopback, that spoils the answers a test names.

faults = FaultyRegistry(registry.address)
cut = faults.add(Fault(on_blobs, cut_short(100), times=2))
with run_web(faults) as web: ...
assert cut.met == 2
"""

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.support.web import Asked, Reply

Spoil = Callable[[Asked, Reply], Reply]
PROBE = "bytes=0-0"


@dataclass(slots=True)
class Fault:
    """Spoils answers to what fits, the first `times` of them; `met` counts them."""

    fits: Callable[[Asked], bool]
    spoil: Spoil
    times: int = 1
    met: int = 0


@dataclass(slots=True)
class FaultyRegistry:
    """A responder for `run_web`: what `upstream` (host:port) answers, if no fault spoils it.

    bytes_per_s  each answer comes so fast; None: as fast as it can
    """

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    bytes_per_s: float | None = None
    _meeting: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    def __call__(self, asked: Asked) -> Reply:
        fault = self._met(asked)
        reply = replace(relayed(self.upstream, asked), bytes_per_s=self.bytes_per_s)
        return fault.spoil(asked, reply) if fault else reply

    def _met(self, asked: Asked) -> Fault | None:
        with self._meeting:
            for fault in self.faults:
                if fault.met < fault.times and fault.fits(asked):
                    fault.met += 1
                    return fault
        return None


def relayed(upstream: str, asked: Asked) -> Reply:
    """The registry's own answer."""
    connection = http.client.HTTPConnection(upstream)
    try:
        connection.request(asked.method, asked.path, asked.body or None, asked.headers)
        answer = connection.getresponse()
        headers = {
            name: value
            for name, value in answer.getheaders()
            if name.lower() not in ("content-length", "date", "connection")
        }
        return Reply(answer.status, headers=headers, body=answer.read())
    finally:
        connection.close()


def on_manifests(asked: Asked) -> bool:
    return "/manifests/" in asked.path


def on_downloads(asked: Asked) -> bool:
    """Of blobs, and not just the first byte, by which a blob's place is found."""
    return "/blobs/" in asked.path and asked.headers.get("range") != PROBE


def on_resumes(asked: Asked) -> bool:
    """Of a download that broke off."""
    return on_downloads(asked) and "range" in asked.headers


def on_range_from(first: int) -> Callable[[Asked], bool]:
    """Of a part of a blob that begins at byte first."""
    return lambda asked: (
        on_downloads(asked) and asked.headers.get("range", "").startswith(f"bytes={first}-")
    )


def on_probes(asked: Asked) -> bool:
    return "/blobs/" in asked.path and asked.headers.get("range") == PROBE


def refused(status: int, headers: dict[str, str] | None = None) -> Spoil:
    return lambda _, reply: Reply(status, headers=headers or {})


def cut_short(after_bytes: int) -> Spoil:
    """The connection ends so many bytes into the body, whose length was told."""

    def spoil(_: Asked, reply: Reply) -> Reply:
        head = f"HTTP/1.1 {reply.status} Cut\r\nContent-Length: {len(reply.body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        return Reply(raw=head.encode() + b"\r\n" + reply.body[:after_bytes])

    return spoil


def without_ranges(upstream: str) -> Spoil:
    """The whole is sent, whatever range was asked for."""

    def spoil(asked: Asked, _: Reply) -> Reply:
        headers = {name: value for name, value in asked.headers.items() if name != "range"}
        return relayed(upstream, replace(asked, headers=headers))

    return spoil


def silenced(_: Asked, reply: Reply) -> Reply:
    """The connection ends without a word."""
    return Reply(raw=b"")


def wrong_at(at: int) -> Spoil:
    """That byte of the body is another; -1: its last one."""

    def spoil(_: Asked, reply: Reply) -> Reply:
        body = bytearray(reply.body)
        body[at] ^= 1
        return replace(reply, body=bytes(body))

    return spoil
