"""Ranges of objects that were just asked for, from files that are still open.

It answers one thing, the same as `clipfs.content.objects` would: a GET with a valid token and
`Range: bytes=FIRST-LAST`, both within the object, and no If-Range. All else is None.

Files stay open for a second at most, so what was evicted has its space back then and what is
used is seen by the store; and for no longer than until any worker changes an object.
"""

import os
import re
from typing import NamedTuple

import trio

from clipfs.content.connection import Request
from clipfs.content.date import http_date
from clipfs.content.keys import limit_of
from clipfs.content.objects import OBJECTS
from clipfs.content.store import Found, Store
from clipfs.content.tokens import Tokens

MAX_FILES = 256
"""Beyond it all are closed; 2 GiB of pages, more than one worker sends in a second."""

_RANGE = re.compile(rb"bytes=([0-9]{1,18})-([0-9]{1,18})")


class Opened:
    """An open object, with the lines of its answers' heads that are always the same."""

    __slots__ = ("fd", "is_kept", "lines", "size", "users")

    def __init__(self, found: Found) -> None:
        self.fd = found.fd
        self.size = found.size
        self.lines = (
            "Content-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n"
            f"ETag: {found.etag}\r\n"
        )
        self.is_kept = True
        self.users = 0

    def release(self) -> None:
        """Each answer out of it calls this once, when it is sent or broken off."""
        self.users -= 1
        if not self.users and not self.is_kept:
            os.close(self.fd)

    def forget(self) -> None:
        self.is_kept = False
        if not self.users:
            os.close(self.fd)


class Part(NamedTuple):
    """An answer: its head, and where its body lies. The caller releases `opened`."""

    head: bytes
    opened: Opened
    bytes: range


class Hot:
    """The open files of one worker."""

    def __init__(self, store: Store, tokens: Tokens, changes: memoryview) -> None:
        """changes  differs from what it was once any worker has changed an object"""
        self._store = store
        self._tokens = tokens
        self._changes = changes
        self._seen = bytes(changes)
        self._opened: dict[str, Opened] = {}

    def part_of(self, request: Request) -> Part | None:
        headers = request.headers
        wanted = _RANGE.fullmatch(headers.get(b"range", b""))
        if (
            wanted is None
            or request.method != "GET"
            or b"if-range" in headers
            or not self._tokens.rights(headers.get(b"authorization")).read
        ):
            return None
        if self._changes != self._seen:
            self.forget()
        opened = self._opened.get(request.target) or self._open(request.target)
        if opened is None:
            return None
        first, last = map(int, wanted.groups())
        if not first <= last < opened.size:
            return None
        opened.users += 1
        head = (
            f"HTTP/1.1 206 Partial Content\r\nDate: {http_date()}\r\n"
            f"Content-Length: {last + 1 - first}\r\n{opened.lines}"
            f"Content-Range: bytes {first}-{last}/{opened.size}\r\n\r\n"
        )
        return Part(head.encode(), opened, range(first, last + 1))

    async def run(self) -> None:
        """Close all once a second."""
        while True:
            await trio.sleep(1)
            self.forget()

    def forget(self) -> None:
        """Close what no answer needs; files that one needs are closed by it."""
        self._seen = bytes(self._changes)  # first: a change from now on is seen the next time
        opened, self._opened = self._opened, {}
        for one in opened.values():
            one.forget()

    def _open(self, target: str) -> Opened | None:
        key = target.removeprefix(OBJECTS)
        if not target.startswith(OBJECTS) or limit_of(key) is None:
            return None
        found = self._store.find(key)
        if found is None:
            return None
        if len(self._opened) >= MAX_FILES:
            self.forget()
        opened = self._opened[target] = Opened(found)
        return opened
