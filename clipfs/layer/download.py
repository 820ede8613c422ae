"""A blob's bytes by one plain GET, as a file-like source.

http.client, not httpx: a worker's start-up time counts, and the bytes go straight into big
buffers (measured: 1,330 MB/s against 281). Retries, resuming and ranges belong here, later.
"""

import http.client
import ssl
from urllib.parse import SplitResult, urlsplit

from clipfs import errors
from clipfs.image.digest import Digest

TIMEOUT_S = 60
"""Without a byte for this long, the registry counts as gone."""


class Download:
    """Open it, read to the end, close it. Errors are renamed: RegistryUnavailable and so on."""

    def __init__(self, url: str, headers: dict[str, str], *, digest: Digest) -> None:
        """digest  names the blob in errors; it is not checked here"""
        parts = urlsplit(url)
        self._host = parts.netloc
        self._digest = digest
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        try:
            self._connection = _connection(parts)
            self._connection.request(
                "GET", target, headers={"Accept-Encoding": "identity", **headers}
            )
            self._response = self._connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: the URL
            raise self._unavailable(error) from error
        self._judge(self._response.status)

    def read(self, size: int = -1, /) -> bytes:
        """At most size bytes, b"" at the end; RegistryUnavailable if the connection breaks."""
        try:
            return self._response.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        self._connection.close()

    def _judge(self, status: int) -> None:
        what = f"blob {self._digest} from {self._host}"
        if status == 200:
            return
        if status == 401:
            raise errors.Unauthenticated(f"{what}: the registry wants other credentials (401)")
        if status == 403:
            raise errors.AccessDenied(f"{what}: the registry refuses (403)")
        if status == 404:
            raise errors.ImageNotFound(f"{what}: the registry has no such blob (404)")
        advice = "; try again later" if status == 429 or status >= 500 else ""
        raise errors.RegistryUnavailable(f"{what}: the registry answers {status}{advice}")

    def _unavailable(self, error: Exception) -> errors.RegistryUnavailable:
        reason = str(error) or type(error).__name__
        return errors.RegistryUnavailable(f"blob {self._digest} from {self._host}: {reason}")


def _connection(parts: SplitResult) -> http.client.HTTPConnection:
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
    context = ssl.create_default_context()
    return http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT_S, context=context)
