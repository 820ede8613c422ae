"""Who may do what: bearer tokens, compared in constant time.

Source: RFC 6750, "Authorization Request Header Field".
"""

import hmac
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    read: bool
    write: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """`write` may write and read; `read`, where there is one, may only read."""

    write: str = field(repr=False)
    read: str | None = field(default=None, repr=False)

    def rights(self, authorization: bytes | None) -> Rights:
        """What the bearer of an Authorization header may do."""
        scheme, _, token = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return Rights(read=False, write=False)
        write = _is(token, self.write)
        read = self.read is not None and _is(token, self.read)
        return Rights(read=read or write, write=write)


def _is(given: bytes, token: str) -> bool:
    return hmac.compare_digest(given.strip(), token.encode())
