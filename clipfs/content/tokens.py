"""Who may do what: bearer tokens, compared in constant time.

Source: RFC 6750, "Authorization Request Header Field".
"""

import hmac
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    read: bool
    write: bool


NOTHING = Rights(read=False, write=False)
MAY_READ = Rights(read=True, write=False)
MAY_WRITE = Rights(read=True, write=True)


class Tokens:
    """write  may write and read. read  may only read; None: there is no such token"""

    def __init__(self, *, write: str, read: str | None = None) -> None:
        self._write = write.encode()
        self._read = read.encode() if read is not None else None

    def rights(self, authorization: bytes | None) -> Rights:
        """What the bearer of an Authorization header may do."""
        scheme, _, token = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return NOTHING
        given = token.strip()
        may_write = hmac.compare_digest(given, self._write)
        may_read = self._read is not None and hmac.compare_digest(given, self._read)
        return MAY_WRITE if may_write else MAY_READ if may_read else NOTHING
