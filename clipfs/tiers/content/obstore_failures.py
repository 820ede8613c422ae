"""What went wrong between us and an object store: obstore's error in, one of ours out.

What a store says is never repeated, only its status and its error code: a URL may hold a
signature, and the answer to a wrong one quotes the request's headers.

Not here: requests (`clipfs.tiers.content.obstore_bucket`).
Source: Amazon S3 API Reference, "Error responses"; Azure Blob Storage, "Blob service error codes".
"""

import re

from obstore import exceptions

from clipfs.tiers.content.bucket import (
    Absent,
    Beyond,
    Conflict,
    NoAnswer,
    NoBucket,
    NoConditions,
    NotAllowed,
    Odd,
)

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_KIND = re.compile(r"\bkind: (\w{1,30})")
_UNTRUSTED = re.compile(r"InvalidCertificate\(\s*(?:Other\(\s*OtherError\(\s*)?(\w{1,60})")
_AT_THE_END = "StartTooLarge"
"""obstore's own word, where a store answers that a range which begins at the end is empty."""

_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "InvalidBucketName"})
_BAD_CREDENTIALS = re.compile("InvalidAccessKeyId|Signature|Token|Skewed|Authentication")
_INSTANCE_ROLE = re.compile(r"169\.254\.169\.254|metadata\.google\.internal")


def named(what: str, error: Exception, *, bucket: str, credentials: str) -> Exception:
    """The error to raise in obstore's stead.

    what         method and key
    bucket       its name and where it is
    credentials  what this kind of store takes
    """
    said = str(error)
    status, code = _first(_STATUS, said), _first(_CODE, said)
    words = " ".join(word for word in (what + ":", status, code) if word)
    if isinstance(error, exceptions.AlreadyExistsError | exceptions.PreconditionError):
        return Conflict(words)
    if code in _NO_BUCKET:
        return NoBucket(f"there is no bucket {bucket}; create it, or correct --content-cache")
    if isinstance(error, FileNotFoundError):
        return Absent(words)
    if _INSTANCE_ROLE.search(said):
        return NoAnswer(f"there are no credentials; give {credentials}")
    if isinstance(error, exceptions.NotSupportedError) or status == "501":
        return NoConditions(words)
    if _BAD_CREDENTIALS.search(code) or status == "401":
        return NoAnswer(f"{words}: the credentials are wrong; they are {credentials}")
    if status == "403":
        return NotAllowed(words)
    if status == "416" or _AT_THE_END in said:
        return Beyond(words)
    if status.startswith("4") and status not in ("408", "429"):
        return Odd(words)
    if status:
        return NoAnswer(words)
    if untrusted := _first(_UNTRUSTED, said):
        return NoAnswer(f"{what}: its certificate is not trusted ({untrusted}); see --ca-file")
    kinds = set(_KIND.findall(said))
    if "Timeout" in kinds or "TimedOut" in said:
        return NoAnswer(f"{what}: no answer in time")
    if "Connect" in kinds:
        return NoAnswer(f"{what}: no connection")
    if kinds:
        return NoAnswer(f"{what}: the connection broke")
    return Odd(f"{what}: the answer is not what the store's protocol says")


def _first(pattern: re.Pattern[str], said: str) -> str:
    found = pattern.search(said)
    return found[1] if found else ""
