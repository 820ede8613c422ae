"""A blob's bytes from one source, by GET: the whole, the rest of it, or one range after another.

Resuming needs no If-Range: a blob is named by its digest, which is checked over the whole, so
no other version of it exists; and a second mirror's ETag would make it send everything again.

Not here: what becomes of a download that breaks off (`clipfs.layer.blob.lane`).
Source: RFC 9110, "Range Requests".
"""

import http.client
import re
import socket
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from urllib.parse import urlsplit

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.image.model import BlobSource
from clipfs.image.retry import retry_after_s
from clipfs.image.stated_size import check_size
from clipfs.layer.blob.broken_off import BrokenOff, refusal
from clipfs.layer.blob.connection import connection_to
from clipfs.layer.blob.pace import SLOWEST_BYTES_PER_S, Pace
from clipfs.layer.blob.watchdog import at_most

READ_BYTES = 1 << 20
"""At most at a time."""

PATIENCE_S = 0.2
"""What has come after so long is handed on, though it is less."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class Download:
    """One connection to source: ask, read what it answers, ask again; close it.

    at     place in the blob of the next byte that `read` gives
    ends   where the answer ends, if its connection does not end before
    exact  whether the answer is what was asked for; else it is all that source can do
    """

    def __init__(self, source: BlobSource, *, digest: Digest, size: int, stall_s: float) -> None:
        """Asks nothing yet.

        digest   names the blob in errors; it is not checked here
        size     bytes of the blob
        stall_s  without a byte for so long, or too slow over so long, the source counts as gone
        """
        self.source = source
        self.at = self.ends = 0
        self.exact = True
        self._digest = digest
        self._host = urlsplit(source.url).netloc
        self._what = f"blob {digest} from {self._host}"
        self._size = size
        self._stall_s = stall_s
        self._pace = Pace(stall_s)
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._connection: http.client.HTTPConnection | None = None
        self._target, self._login = "", dict[str, str]()
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self._left: int | None = 0  # of the body; None: nobody said how long it is
        self._failed: Exception | None = None
        self._aborted = False

    def ask(self, start: int, end: int | None = None, *, in_ranges: bool) -> None:
        """Go on at start, or before it, with the range up to end, or with all that follows.

        in_ranges  ask for a range even of the whole, to see whether source knows them

        Raises  BrokenOff; CorruptImage if the registry's blob has another size than it should
        """
        headers = {"Accept-Encoding": "identity", **self.source.headers}
        if end is not None:
            headers["Range"] = f"bytes={start}-{end - 1}"
        elif start or in_ranges:
            headers["Range"] = f"bytes={start}-"
        begin = time.monotonic()
        try:
            response = self._answer(headers)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: the URL
            raise self._broken(error) from error
        self._keep_pace(0, waited_s=time.monotonic() - begin)
        self._left = None if response.chunked else response.length
        self._place(response, start, end, is_ranged="Range" in headers)

    def read(self, size: int = READ_BYTES) -> bytes:
        """At most size bytes, b"" where the server ends its answer, too early or not."""
        is_bounded = self._left is not None  # else a chunk's size comes by many small steps
        try:
            with nullcontext() if is_bounded else self._watched():
                filled = self._fill(self._buffer[: min(size, READ_BYTES)])
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._broken(error) from error
        self.at += filled
        return bytes(self._buffer[:filled])

    def early(self) -> BrokenOff:
        """What an answer is that ended before it should."""
        return BrokenOff(
            errors.RegistryUnavailable(
                f"blob {self._digest}: the registry ended it after {self.at} of {self._size} "
                "bytes; try again"
            )
        )

    def is_longer(self) -> bool:
        """Whether more follows where the blob should end."""
        try:
            return bool(self.read(1))
        except BrokenOff:
            return False

    def abort(self) -> None:
        """End what another thread waits for in here."""
        self._aborted = True
        _shut_down(self._socket)

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        if self._connection is not None:
            self._connection.close()
        self._socket = None

    def _answer(self, headers: dict[str, str]) -> http.client.HTTPResponse:
        """The answer to a GET, on the connection of the one before if that still stands."""
        if self._connection is None:
            self._connection, self._target, self._login = connection_to(self.source, self._stall_s)
        if self._left != 0:  # of the answer before
            self.close()
        is_used = self._connection.sock is not None
        try:
            return self._get(self._connection, headers)
        except (OSError, http.client.BadStatusLine) as error:
            if not is_used or self._aborted or isinstance(error, TimeoutError):
                raise
            self.close()  # the server need not have kept it
            return self._get(self._connection, headers)

    def _get(
        self, connection: http.client.HTTPConnection, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        if connection.sock is None:
            with at_most(self._stall_s, end=lambda: _shut_down(connection.sock)):
                connection.connect()
        self._socket = connection.sock
        if self._aborted:
            raise ConnectionAbortedError("nobody waits for it any more")
        self._response = None
        with self._watched():
            connection.request("GET", self._target, headers={**headers, **self._login})
            self._response = connection.getresponse()
        return self._response

    def _place(
        self, response: http.client.HTTPResponse, start: int, end: int | None, *, is_ranged: bool
    ) -> None:
        """Find out what the answer holds; BrokenOff if it is no good answer."""
        status = response.status
        if status in (200, 416):
            self._check_size(response)
        if status == 200:
            self.at, self.ends = 0, self._size
            self.exact = not is_ranged
            return
        if status != 206 or not is_ranged:
            header = response.headers.get("Retry-After", "")
            raise BrokenOff(
                refusal(self._what, status),
                status=status,
                retry_after_s=retry_after_s(header, now=time.time()),
            )
        stated = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if stated is None or not int(stated[1]) <= start <= int(stated[2]):
            raise BrokenOff(
                errors.RegistryUnavailable(f"{self._what}: the registry answers another range"),
                status=status,
            )
        self._check_size(response)
        self.at, self.ends = int(stated[1]), int(stated[2]) + 1
        is_as_long = self._left in (None, self.ends - self.at)
        self.exact = self.at == start and is_as_long and end in (None, self.ends)

    def _check_size(self, response: http.client.HTTPResponse) -> None:
        check_size(
            f"blob {self._digest}",
            response.status,
            response.headers.get,
            manifest_bytes=self._size,
            stated_by=self._host,
        )

    def _fill(self, into: memoryview) -> int:
        """How many bytes came by the end of the answer, or of our patience; raises if none did."""
        filled = 0
        begin = last = time.monotonic()
        while filled < len(into) and self._failed is None:
            try:
                count = self._receive(into[filled:])
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._failed = error
                break
            filled += count
            now = time.monotonic()
            self._keep_pace(count, waited_s=now - last)
            last = now
            if not count or now - begin > PATIENCE_S:
                break
        if self._failed is not None and not filled:
            raise self._failed
        return filled

    def _receive(self, into: memoryview) -> int:
        """Some bytes; 0 at the answer's end. By one recv, but for what precedes a chunk."""
        assert self._response is not None
        if self._left is None:
            piece = self._response.read1(len(into))
            into[: len(piece)] = piece
            if not piece:
                self._left = 0
            return len(piece)
        if not self._left:
            return 0
        count = self._response.fp.readinto1(into[: self._left])
        self._left -= count
        if not self._left:
            self._response.close()  # so that the connection can be asked again
        return count

    def _watched(self) -> AbstractContextManager[None]:
        return at_most(self._stall_s, end=lambda: _shut_down(self._socket))

    def _keep_pace(self, count: int, *, waited_s: float) -> None:
        if self._pace.is_too_slow(count=count, waited_s=waited_s):
            slow = f"slower than {SLOWEST_BYTES_PER_S} bytes/s for {self._stall_s:.0f} s"
            self._failed = TimeoutError(slow)

    def _broken(self, error: Exception) -> BrokenOff:
        reason = str(error) or type(error).__name__
        return BrokenOff(errors.RegistryUnavailable(f"{self._what}: {reason}"))


def _shut_down(connected: socket.socket | None) -> None:
    """End what waits for it, without TLS's farewell; its own thread may close it meanwhile."""
    if connected is not None:
        with suppress(OSError):  # closed already
            socket.socket.shutdown(connected, socket.SHUT_RDWR)
