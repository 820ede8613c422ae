"""What the content cache answers: objects by their keys, to those who hold a token.

    GET, HEAD, PUT /v1/objects/<key>         GET /healthz

Not here: framing (`clipfs.content.connection`); files (`clipfs.content.store`); claims,
DELETE, eviction and metrics.
Source: RFC 9110 (HTTP semantics), RFC 9530 (Content-Digest).
"""

import errno
import os

import structlog
import trio

from clipfs.content.connection import Connection, Request
from clipfs.content.misses import Misses
from clipfs.content.ranges import Unsatisfiable, parse_range
from clipfs.content.store import Conflict, DigestMismatch, Found, Store, limit_of
from clipfs.content.tokens import Tokens

log = structlog.get_logger()

OBJECTS = "/v1/objects/"


class Objects:
    """Answers requests out of `store`."""

    def __init__(self, store: Store, tokens: Tokens, misses: Misses) -> None:
        self._store = store
        self._tokens = tokens
        self._misses = misses

    async def respond(self, http: Connection, request: Request) -> None:
        if request.target == "/healthz" and request.method in ("GET", "HEAD"):
            return await http.answer(200, "ok\n")
        may = self._tokens.rights(request.headers.get(b"authorization"))
        if not may.read:
            challenge = [("WWW-Authenticate", "Bearer")]
            return await http.answer(401, "a bearer token is needed\n", challenge)
        key = request.target.removeprefix(OBJECTS)
        limit = limit_of(key) if request.target.startswith(OBJECTS) else None
        if limit is None:
            return await http.answer(404, "no such resource\n")
        match request.method:
            case "GET" | "HEAD":
                return await self._get(http, key, request)
            case "PUT" if not may.write:
                return await http.answer(403, "this token may only read\n")
            case "PUT":
                return await self._put(http, key, limit, request)
        await http.answer(405, "GET, HEAD, PUT\n", [("Allow", "GET, HEAD, PUT")])

    async def _get(self, http: Connection, key: str, request: Request) -> None:
        found = self._store.find(key)
        if found is None:
            say = log.warning if self._misses.add(key) else log.debug
            say("content not found", key=key)
            return await http.answer(404, "content not found\n")
        try:
            await _send(http, found, request)
        finally:
            os.close(found.fd)

    async def _put(self, http: Connection, key: str, limit: int, request: Request) -> None:
        length = request.headers.get(b"content-length")
        if length is None:
            return await http.answer(411, "Content-Length is needed\n")
        if int(length) > limit:
            return await http.answer(413, f"at most {limit} bytes\n")
        try:
            with self._store.receive(key, request.headers.get(b"content-digest")) as incoming:
                if not await http.receive(incoming.write):
                    return
                log.info(f"Store[ACK] ({int(length)} bytes)", key=key)
                created = await trio.to_thread.run_sync(incoming.finish)
        except DigestMismatch as error:
            return await http.answer(400, f"{error}\n")
        except Conflict as error:
            return await http.answer(409, f"{error}\n")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning("an object was not stored", key=key, error=str(error))
            return await http.answer(507, "the disk is full\n")
        if created:
            self._misses.forget(key)
            log.debug(f"Added object: {key}")
        log.info(f"Store[OK] - [{key}]")
        await http.answer(201 if created else 200, "")


async def _send(http: Connection, found: Found, request: Request) -> None:
    wanted = request.headers.get(b"range")
    if request.headers.get(b"if-range", found.etag.encode()) != found.etag.encode():
        wanted = None  # the rest of another object than the client holds
    try:
        part = parse_range(wanted.decode("latin-1") if wanted else None, found.size)
    except Unsatisfiable:
        total = [("Content-Range", f"bytes */{found.size}")]
        return await http.answer(416, "no such range\n", total)
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
