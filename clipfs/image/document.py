"""One manifest or config, asked of one host: its bytes, or only whether they may be had.

    data, media_type, digest = await fetched(session, reference, "manifests", "1", None, ...)
    digest = await proved(session, reference, "1", None, patient=True)

Bytes are checked against the digest that named them; a tag's own answer names its digest.

Not here: which hosts are asked, and what the documents say (`clipfs.image.registry`).
Source: OCI distribution specification, "Pull", "Checking if content exists in the registry".
"""

import hashlib

from clipfs import errors
from clipfs.image.digest import Digest, is_digest
from clipfs.image.failures import refusal
from clipfs.image.http import Answer
from clipfs.image.manifest import ACCEPT, MAX_DOCUMENT_BYTES
from clipfs.image.reference import Reference
from clipfs.image.retry import RETRIED_STATUS
from clipfs.image.session import Session

_WANTED = {"Accept": ACCEPT}


async def fetched(
    session: Session,
    reference: Reference,
    kind: str,
    version: str,
    expected: Digest | None,
    *,
    patient: bool,
    part: str = "",
) -> tuple[bytes, str, Digest]:
    """Body, media type and digest; CorruptImage if it is not the one that was asked for.

    part  as `refusal` takes it
    """
    answer = await session.ask("GET", reference, kind, version, _WANTED, patient=patient)
    of = session.names(reference)
    if answer.status != 200:
        raise refusal(of, answer.status, answer.body, part=part, shown=answer.shown)
    return _checked(of, version, expected, answer)


async def proved(
    session: Session,
    reference: Reference,
    version: str,
    expected: Digest | None,
    *,
    patient: bool,
) -> Digest:
    """The digest of a manifest that the host lets these credentials have, by HEAD.

    Where that does not say it, the whole is asked for: a host may have no HEAD, a 200 alone may
    be a proxy's, and a refusal has its words in a body. Raises as `fetched`.
    """
    answer = await session.ask("HEAD", reference, "manifests", version, _WANTED, patient=patient)
    of, stated = session.names(reference), answer.headers.get("Docker-Content-Digest", "")
    if answer.status in RETRIED_STATUS:
        raise refusal(of, answer.status, answer.body, shown=answer.shown)
    if answer.status != 200 or not is_digest(stated):
        found = await fetched(session, reference, "manifests", version, expected, patient=patient)
        return found[2]
    if expected is not None and stated != expected:
        raise errors.CorruptImage(f"{of}: what should be {expected} has the digest {stated}")
    return Digest(stated)


def _checked(
    of: str, version: str, expected: Digest | None, answer: Answer
) -> tuple[bytes, str, Digest]:
    if len(answer.body) > MAX_DOCUMENT_BYTES:
        raise errors.CorruptImage(f"{of}: {version} is a document over {MAX_DOCUMENT_BYTES} bytes")
    digest = Digest("sha256:" + hashlib.sha256(answer.body).hexdigest())
    stated = expected or answer.headers.get("Docker-Content-Digest")
    if stated and stated != digest:
        raise errors.CorruptImage(f"{of}: what should be {stated[:80]!r} has the digest {digest}")
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    return answer.body, media_type, digest
