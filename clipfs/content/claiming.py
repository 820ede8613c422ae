"""HTTP answers about claims, to those who may write.

    PUT    /v1/claims/<key>   {"holder": id, "progress": {"downloaded_bytes", "payload_bytes",
                              "total_bytes", "stored_bytes"}}: 201 granted, renewed too; 409
                              another one's
    DELETE /v1/claims/<key>   {"holder": id}: 204 nobody holds it now; 409 another one does

201 and 409 come with {"holder", "progress", "seconds_left"}. Counts left out are 0.

Not here: what a claim is (`clipfs.content.claims`).
"""

from typing import TypeVar

import msgspec
import trio

from clipfs.content.claims import Claim, Claims, Holder, Progress
from clipfs.content.connection import Connection, Request

MAX_BODY_BYTES = 4096
JSON = "application/json"

T = TypeVar("T")


class _PutBody(msgspec.Struct, frozen=True):
    holder: Holder
    progress: Progress = Progress()


class _DeleteBody(msgspec.Struct, frozen=True):
    holder: Holder


async def answer_claim(http: Connection, request: Request, claims: Claims, key: str) -> None:
    """Answer a request about the claim on key, which may be claimed."""
    if request.method not in ("PUT", "DELETE"):
        return await http.answer(405, "PUT, DELETE\n", [("Allow", "PUT, DELETE")])
    length = request.headers.get(b"content-length")
    if length is None:
        return await http.answer(411, "Content-Length is needed\n")
    if int(length) > MAX_BODY_BYTES:
        return await http.answer(413, f"at most {MAX_BODY_BYTES} bytes\n")
    body = bytearray()
    await http.receive(body.extend)
    try:
        if request.method == "PUT":
            wanted = _decoded(body, _PutBody)
            claim = await trio.to_thread.run_sync(claims.claim, key, wanted.holder, wanted.progress)
            granted = claim.holder == wanted.holder
            return await _answer(http, 201 if granted else 409, claim)
        release = _decoded(body, _DeleteBody)
    except msgspec.DecodeError as error:
        return await http.answer(400, f"the body is no such claim: {error}\n")
    held = await trio.to_thread.run_sync(claims.release, key, release.holder)
    if held is None:
        return await http.answer(204, "")
    await _answer(http, 409, held)


def _decoded(body: bytearray, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError("JSON is UTF-8") from error
    except RecursionError as error:
        raise msgspec.DecodeError("JSON is nested too deeply") from error


async def _answer(http: Connection, status: int, claim: Claim) -> None:
    await http.answer(status, msgspec.json.encode(claim).decode() + "\n", content_type=JSON)
