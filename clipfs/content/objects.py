"""HTTP answers about objects, by their keys, to those who hold a token.

    GET, HEAD, PUT, DELETE /v1/objects/<key>     PUT, DELETE /v1/claims/<key>     GET /healthz

An ETag follows from the bytes. PUT needs Content-Digest, lest damaged bytes are stored. DELETE, and
PUT where an index, an origin record or a trace is to be replaced, need If-Match with the ETag of
the one that is there; `*` is not one. Pages never change.

Not here: framing (`clipfs.content.connection`); files (`clipfs.content.store`); claims
(`clipfs.content.claiming`); metrics.
Source: RFC 9110 (HTTP semantics), RFC 9530 (Content-Digest), RFC 6585 (428).
"""

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec
import trio

from clipfs.content.claiming import JSON, answer_claim
from clipfs.content.connection import Connection, Request
from clipfs.content.incoming import (
    BadDigest,
    Conflict,
    PreconditionFailed,
    Refused,
    Stored,
    wanted_digest,
)
from clipfs.content.keys import is_replaceable, layer_of, limit_of, may_be_claimed
from clipfs.content.misses import Misses
from clipfs.content.ranges import Unsatisfiable, parse_range
from clipfs.content.store import Found, NeverFits, NoRoom, Store
from clipfs.content.tokens import Tokens
from clipfs.log import log

T = TypeVar("T")

OBJECTS, CLAIMS = "/v1/objects/", "/v1/claims/"

_METHODS = "GET, HEAD, PUT, DELETE"
STATUS: dict[type[Refused], int] = {
    BadDigest: 400,
    Conflict: 409,
    PreconditionFailed: 412,
    NeverFits: 413,
    NoRoom: 507,
}

_REFUSALS = {errno.ENOSPC: "full", errno.EDQUOT: "full", errno.EROFS: "read-only"}
"""A disk in this state still serves what is there; after other errors nobody relies on it."""


class Objects:
    """Answers requests out of `store`."""

    def __init__(
        self, store: Store, tokens: Tokens, misses: Misses, on_change: Callable[[], None]
    ) -> None:
        """on_change  called when an object may have changed, before the client learns"""
        self._store = store
        self._tokens = tokens
        self._misses = misses
        self._on_change = on_change

    async def respond(self, http: Connection, request: Request) -> None:
        try:
            await self._respond(http, request)
        except Refused as error:
            if isinstance(error, NoRoom):
                log.warning("an object was not stored", target=request.target, error=str(error))
            await http.answer(STATUS[type(error)], f"{error}\n")
        except OSError as error:
            state = _REFUSALS.get(error.errno or 0)
            if state is None:
                raise
            log.warning("something was not stored", target=request.target, error=str(error))
            await http.answer(507, f"the disk is {state}\n")

    async def _respond(self, http: Connection, request: Request) -> None:
        if request.target == "/healthz" and request.method in ("GET", "HEAD"):
            health = msgspec.json.encode({"status": "ok", "id": self._store.id}).decode()
            return await http.answer(200, health + "\n", content_type=JSON)
        may = self._tokens.rights(request.headers.get(b"authorization"))
        if not may.read:
            challenge = [("WWW-Authenticate", "Bearer")]
            return await http.answer(401, "a bearer token is needed\n", challenge)
        claimed = request.target.removeprefix(CLAIMS)
        is_claim = request.target.startswith(CLAIMS) and may_be_claimed(claimed)
        key = request.target.removeprefix(OBJECTS)
        limit = limit_of(key) if request.target.startswith(OBJECTS) else None
        if limit is None and not is_claim:
            return await http.answer(404, "no such resource\n")
        if request.method in ("PUT", "DELETE") and not may.write:
            return await http.answer(403, "this token may only read\n")
        if limit is None:
            return await answer_claim(http, request, self._store.claims, claimed)
        match request.method:
            case "GET" | "HEAD":
                return await self._get(http, key, request)
            case "PUT":
                return await self._put(http, key, limit, request)
            case "DELETE":
                return await self._delete(http, key, request)
        await http.answer(405, f"{_METHODS}\n", [("Allow", _METHODS)])

    async def _get(self, http: Connection, key: str, request: Request) -> None:
        found = self._store.find(key)
        if found is None:
            is_many = self._misses.add(key) and not self._is_awaited(key)
            say = log.warning if is_many else log.debug
            say("content not found", key=key)
            return await http.answer(404, "content not found\n")
        try:
            await _send(http, found, request)
        finally:
            os.close(found.fd)

    def _is_awaited(self, key: str) -> bool:
        """Whether a node is at the layer, and the others ask for it until it is stored."""
        layer = layer_of(key)
        return layer is not None and self._store.claims.holder(layer) is not None

    async def _put(self, http: Connection, key: str, limit: int, request: Request) -> None:
        length = request.headers.get(b"content-length")
        if length is None:
            return await http.answer(411, "Content-Length is needed\n")
        if int(length) > limit:
            return await http.answer(413, f"at most {limit} bytes\n")
        stored = await self._receive(http, key, int(length), request)
        if stored.is_new:
            self._misses.forget(key)
            log.debug(f"Added object: {key}")
        log.info(f"Store[OK] - [{key}]")
        await http.answer(201 if stored.is_new else 200, "", [("ETag", stored.etag)])

    async def _receive(self, http: Connection, key: str, length: int, request: Request) -> Stored:
        digest = wanted_digest(request.headers.get(b"content-digest", b""))
        replaces = _etags(request) if is_replaceable(key) else None
        begin = partial(self._store.receive, key, length, replaces=replaces)
        with await trio.to_thread.run_sync(begin) as incoming:
            await http.receive(incoming.write)
            log.info(f"Store[ACK] ({length} bytes)", key=key)
            return await self._change(partial(incoming.finish, digest))

    async def _delete(self, http: Connection, key: str, request: Request) -> None:
        etags = _etags(request)
        if etags is None:
            return await http.answer(428, "If-Match with the object's ETag is needed\n")
        try:
            await self._change(partial(self._store.delete, key, etags))
        except FileNotFoundError:
            return await http.answer(404, "content not found\n")
        log.info("removed an object", key=key)
        await http.answer(204, "")

    async def _change(self, call: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(call)
        finally:
            self._on_change()


def _etags(request: Request) -> list[str] | None:
    """The ETags of If-Match; None if there is no such header."""
    header = request.headers.get(b"if-match")
    return None if header is None else [tag.strip() for tag in header.decode("latin-1").split(",")]


async def _send(http: Connection, found: Found, request: Request) -> None:
    wanted = request.headers.get(b"range")
    if request.headers.get(b"if-range", found.etag.encode()) != found.etag.encode():
        wanted = None  # the rest of another object than the client holds
    try:
        part = parse_range(wanted.decode("latin-1") if wanted else None, found.size)
    except Unsatisfiable:
        headers = [("Content-Range", f"bytes */{found.size}"), ("ETag", found.etag)]
        return await http.answer(416, "no such range\n", headers)
    sent = range(found.size) if part is None else part
    headers = [
        ("Content-Length", str(len(sent))),
        ("Content-Type", "application/octet-stream"),
        ("Accept-Ranges", "bytes"),
        ("ETag", found.etag),
    ]
    if part is None:
        return await http.answer_file(200, headers, found.fd, sent)
    headers.append(("Content-Range", f"bytes {part.start}-{part.stop - 1}/{found.size}"))
    await http.answer_file(206, headers, found.fd, sent)
