"""A bucket of an object store (S3, GCS, Azure Blob), through obstore: blocking calls, few errors.

Credentials, region and endpoint come from each store's usual environment variables and files.

Not here: obstore's errors in our words (`clipfs.tiers.content.obstore_failures`); threads,
patience and the circuit breaker (`clipfs.tiers.content.objectstore`).
Source: RFC 9110, 13.1 (preconditions).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import obstore
import obstore.store
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from clipfs import errors
from clipfs.tiers.content import aws_profile, environment
from clipfs.tiers.content.bucket import (
    TRANSFER_TIMEOUT_S,
    Absent,
    Beyond,
    Conflict,
    Listed,
    NoAnswer,
    NotAllowed,
    Odd,
    Standing,
)
from clipfs.tiers.content.obstore_failures import named
from clipfs.tiers.content.store import MAX_OBJECT_BYTES

CONNECT_TIMEOUT_S = 0.7
ANSWER_TIMEOUT_S = 5
"""Between two pieces of an answer, and until its first."""

RETRY_WITHIN_S = 0.3
"""A request that failed faster, on a connection closed meanwhile or by a 503, is sent again."""

_PIECE_BYTES = 1 << 20
_ENDPOINTS = {
    "s3": aws_profile.ENDPOINTS,
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS's files, a web identity or a role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or an instance's role",
    "az": "AZURE_STORAGE_ACCOUNT_KEY, a federated token or a managed identity",
}
_PANIC = "PanicException"
"""Of pyo3, which exports no such name; it would end a process that serves mounts."""

_USED_BY: set[int] = set()
"""Processes, this one or those it is a fork of, that have opened a bucket."""

_PROVIDERS = {"s3": "AWS", "gs": "Google", "az": "Azure"}
_STORES: dict[str, Callable[..., S3Store | GCSStore | AzureStore]] = {
    "s3": partial(S3Store, disable_bulk_delete=True),  # the bulk call hides its 403 in a 200
    "gs": GCSStore,
    "az": AzureStore,
}


class ObstoreBucket:
    """A `Bucket`, asked by this process. From the first call on it must not fork."""

    def __init__(self, url: str, *, ca_pem: str = "") -> None:
        """url     s3://bucket/prefix, gs://bucket/prefix or az://container/prefix
        ca_pem  CAs that the store is trusted by, beside the node's own
        Raises  InvalidInput
        """
        parts = environment.address(url)
        self._kind = parts.scheme
        self._name = parts.netloc
        _USED_BY.add(os.getpid())
        self._credentials = _CREDENTIALS[self._kind]
        options = aws_profile.store_options() if self._kind == "s3" else {}
        given = (os.environ.get(name) for name in _ENDPOINTS[self._kind])
        endpoint = next(filter(None, given), options.get("endpoint"))
        environment.check(endpoint, _ENDPOINTS[self._kind])
        self._where = _host(endpoint) if endpoint else _PROVIDERS[self._kind]
        self._store = self._opened(url, ca_pem, prefix=parts.path.strip("/") or None, **options)

    def _opened(self, url: str, ca_pem: str, **options: Any) -> S3Store | GCSStore | AzureStore:
        plain = self._where.startswith("http://")
        client: obstore.store.ClientConfig = {
            "allow_http": plain or bool(os.environ.get("AZURE_STORAGE_USE_EMULATOR")),
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "read_timeout": timedelta(seconds=ANSWER_TIMEOUT_S),
            "timeout": timedelta(seconds=TRANSFER_TIMEOUT_S),
        }
        if ca_pem:
            client["root_certificate"] = ca_pem
        retry: obstore.store.RetryConfig = {
            "max_retries": 2,
            "retry_timeout": timedelta(seconds=RETRY_WITHIN_S),
            "backoff": {
                "init_backoff": timedelta(milliseconds=50),
                "max_backoff": timedelta(milliseconds=100),
            },
        }
        opened = _STORES[self._kind]
        try:
            return opened(self._name, client_options=client, retry_config=retry, **options)
        except (exceptions.BaseError, ValueError):
            raise errors.InvalidInput(
                f"{url} cannot be opened with what the environment says; credentials are "
                f"{self._credentials}"
            ) from None

    def ready(self) -> None:
        """Return at once: it is."""

    def check(self) -> None:
        try:
            self.get("absent", part=range(1))
        except NotAllowed as refused:
            raise NoAnswer(f"{refused}: these credentials may not read or not list it") from None
        except Odd as odd:
            raise NoAnswer(str(odd)) from None

    def get(self, key: str, *, part: range | None = None) -> Standing | None:
        try:
            with self._renamed(f"GET {key}"):
                return self._get(key, part)
        except Absent:
            return None
        except Beyond:
            return self._without_bytes(key)

    def _without_bytes(self, key: str) -> Standing | None:
        try:
            with self._renamed(f"HEAD {key}"):
                meta = obstore.head(self._store, key)
        except Absent:
            return None
        return Standing(bytearray(), _version(meta), meta["last_modified"])

    def _get(self, key: str, part: range | None) -> Standing:
        options: obstore.GetOptions = {}
        if part is not None:
            options["range"] = (part.start, part.stop)
        answer = obstore.get(self._store, key, options=options)
        whole = range(answer.meta["size"])
        wanted = whole if part is None else range(part.start, min(part.stop, whole.stop))
        size = len(wanted)
        if answer.range != (wanted.start, wanted.stop) or size > MAX_OBJECT_BYTES:
            raise Odd(f"GET {key}: bytes {answer.range} where {size} should be")
        data = bytearray()
        for piece in answer.stream(_PIECE_BYTES):
            data += piece
            if len(data) > size:
                break
        if len(data) != size:
            raise Odd(f"GET {key}: {len(data)} bytes where {size} should be")
        return Standing(data, _version(answer.meta), answer.meta["last_modified"])

    def version(self, key: str) -> str | None:
        try:
            with self._renamed(f"HEAD {key}"):
                return _version(obstore.head(self._store, key))
        except Absent:
            return None

    def create(self, key: str, data: bytes | memoryview) -> str:
        return self._put(key, data, "create")

    def update(self, key: str, data: bytes | memoryview, version: str) -> str:
        e_tag, _, generation = version.partition(" ")
        seen: obstore.UpdateVersion = {}
        if e_tag:
            seen["e_tag"] = e_tag
        if generation:
            seen["version"] = generation
        try:
            return self._put(key, data, seen)
        except Absent as error:
            raise Conflict(f"PUT {key}") from error

    def overwrite(self, key: str, data: bytes | memoryview) -> str:
        return self._put(key, data, "overwrite")

    def remove(self, key: str) -> None:
        with suppress(Absent), self._renamed(f"DELETE {key}"):
            obstore.delete(self._store, key)

    def listed(self) -> Iterator[Listed]:
        """All objects under the prefix."""
        with self._renamed("LIST"):
            for some in obstore.list(self._store):
                for one in some:
                    yield Listed(one["path"], one["size"], one["last_modified"])

    def _put(self, key: str, data: bytes | memoryview, mode: "obstore.PutMode") -> str:
        with self._renamed(f"PUT {key}"):
            return _version(obstore.put(self._store, key, data, mode=mode, use_multipart=False))

    @contextmanager
    def _renamed(self, what: str) -> Iterator[None]:
        try:
            yield
        except (exceptions.BaseError, OSError, ValueError) as error:
            # not `from error`: its text may hold a signed URL, and a log may show tracebacks
            where = f"{self._name} at {self._where}"
            raise named(what, error, bucket=where, credentials=self._credentials) from None
        except BaseException as error:
            if type(error).__name__ != _PANIC:
                raise
            raise NoAnswer(
                f"{what}: obstore panicked, see stderr; look for what cannot be sent in "
                f"{self._credentials}"
            ) from None


def is_usable() -> bool:
    """False in the fork of a process that has used obstore: its threads are missing here."""
    return {os.getpid()} >= _USED_BY


def _host(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _version(meta: "obstore.ObjectMeta | obstore.PutResult") -> str:
    """ETag and generation: S3 and Azure judge by the one, GCS by the other."""
    return f"{meta['e_tag'] or ''} {meta['version'] or ''}".rstrip()
