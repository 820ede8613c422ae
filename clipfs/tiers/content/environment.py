"""What an object store's URL and the environment say of it, looked at before obstore is told.

obstore panics, with a page of Rust on stderr, where no header or address can be made of a value;
a Secret made from a file often ends in the file's line break.

Not here: AWS's shared files (`clipfs.tiers.content.aws_profile`).
"""

import os
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from clipfs import errors

KINDS = ("s3", "gs", "az")

_IN_HEADERS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)


def is_object_store(url: str) -> bool:
    """Whether url means one, rather than a replica of the content cache."""
    return url.startswith(tuple(f"{kind}://" for kind in KINDS))


def address(url: str) -> SplitResult:
    """The parts of a store's URL: kind, bucket and prefix; InvalidInput if it is none."""
    parts = urlsplit(url)
    if parts.scheme not in KINDS or not parts.netloc or parts.query or "@" in parts.netloc:
        raise errors.InvalidInput(
            "an object store is given as s3://bucket/prefix, gs://bucket/prefix or "
            "az://container/prefix; credentials and endpoint come from the environment"
        )
    return parts


def check(endpoint: str | None, variables: Sequence[str]) -> None:
    """Raises InvalidInput, which repeats no value, if obstore could not use what is said.

    endpoint   where the store is, if that is said
    variables  which may say so
    """
    for name in (*_IN_HEADERS, *variables):
        if not os.environ.get(name, "").isprintable():
            raise errors.InvalidInput(
                f"{name} holds a line break, or what else cannot be printed; take it out of the "
                "environment, or of the Secret that it comes from"
            )
    if endpoint is not None and not _is_address(endpoint):
        raise errors.InvalidInput(
            "the object store's endpoint is no http://HOST[:PORT] or https://HOST[:PORT]; correct "
            + " or ".join(variables)
        )


def _is_address(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port
        return False
    return is_whole and " " not in endpoint
