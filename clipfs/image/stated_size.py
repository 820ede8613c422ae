"""How large a blob is, by what its registry's answer says: pure, beside the manifest's word.

A manifest whose size is wrong is wrong for ever: without the registry's figure it would look
like a download that breaks off, and be asked for again and again.

Source: RFC 9110, "Content-Range", "Content-Length".
"""

import re
from collections.abc import Callable

from clipfs import errors

_TOTAL = re.compile(r"bytes (?:\*|\d{1,18}-\d{1,18})/(\d{1,18})")
_LENGTH = re.compile(r"\d{1,18}")


def check_size(
    of: str,
    status: int,
    header: Callable[[str, str], str],
    *,
    manifest_bytes: int,
    stated_by: str,
) -> None:
    """CorruptImage if the answer says that its blob is not as large as the manifest says.

    of         the blob, for errors
    header     a header of the answer, or else the second argument
    stated_by  who answers, for errors
    """
    stated = _stated_bytes(status, header)
    if stated is not None and stated != manifest_bytes:
        raise errors.CorruptImage(
            f"{of}: the manifest says {manifest_bytes} bytes, {stated_by} has {stated}; push the "
            "image again"
        )


def _stated_bytes(status: int, header: Callable[[str, str], str]) -> int | None:
    """Bytes of the whole blob that the answer is from; None if it does not say."""
    if status in (206, 416):
        found = _TOTAL.fullmatch(header("Content-Range", ""))
        return int(found[1]) if found else None
    length = header("Content-Length", "")
    if status == 200 and not header("Content-Encoding", "") and _LENGTH.fullmatch(length):
        return int(length)
    return None
