"""What is said to the process that asks an object store, and what it answers.

A request is a line of JSON with the size of the data behind it, and so is an answer. One
connection carries one call at a time.

Not here: the two ends (`bucket_process`, `bucket_worker`).
"""

import socket
from datetime import datetime
from typing import Self

import msgspec

from clipfs import errors
from clipfs.tiers.content import bucket

FAILURES: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        bucket.NoAnswer,
        bucket.NoBucket,
        bucket.NoConditions,
        bucket.NotAllowed,
        bucket.Conflict,
        bucket.Odd,
        errors.InvalidInput,
    )
}
"""What a bucket raises, by the names that an answer carries."""


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call of the `Bucket` method that call names."""

    call: str
    key: str = ""
    part: tuple[int, int] | None = None
    version: str = ""
    size: int = 0


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it returned, or raised; version is None where nothing stands under the key."""

    failed: str | None = None
    message: str = ""
    version: str | None = None
    modified: datetime | None = None
    size: int = 0


class Connection:
    """One end of a connection; `with` closes it."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._incoming = end.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._incoming.close()
        self._end.close()

    def send(self, head: Request | Answer, data: bytes | bytearray | memoryview) -> None:
        self._end.sendall(msgspec.json.encode(head) + b"\n")
        self._end.sendall(data)

    def line(self) -> bytes:
        """The next head; nothing once the other end is gone."""
        return self._incoming.readline()

    def data(self, size: int) -> bytearray:
        """What came behind a head. Raises EOFError if the other end is gone."""
        data = bytearray(size)
        view, at = memoryview(data), 0
        while at < size:
            count = self._incoming.readinto(view[at:])
            if not count:
                raise EOFError
            at += count
        return data
