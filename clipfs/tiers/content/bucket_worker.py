"""The process that asks an object store for another: `python -m ... URL FD...`, a thread each FD.

On its stdin are the CAs that the store is trusted by.
It has the environment of who started it, credentials included, and parses nothing but what
obstore does.

Not here: the protocol (`bucket_wire`); the end that asks (`bucket_process`).
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence

import msgspec

from clipfs import errors
from clipfs.tiers.content.bucket_wire import FAILURES, Answer, Connection, Request
from clipfs.tiers.content.obstore_bucket import ObstoreBucket


def serve(url: str, ca_pem: str, fds: Sequence[int]) -> None:
    """Answer what is asked by these connections, until all have ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to our starter, too
    bucket: ObstoreBucket | errors.InvalidInput
    try:
        bucket = ObstoreBucket(url, ca_pem=ca_pem)
    except errors.InvalidInput as error:
        bucket = error
    threads = [threading.Thread(target=_serve, args=(fd, bucket)) for fd in fds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _serve(fd: int, bucket: ObstoreBucket | errors.InvalidInput) -> None:
    with Connection(socket.socket(fileno=fd)) as connection:
        while line := connection.line():
            request = msgspec.json.decode(line, type=Request)
            data = connection.data(request.size)
            try:
                if isinstance(bucket, errors.InvalidInput):
                    raise bucket
                answer, found = _answered(bucket, request, bytes(data))
            except tuple(FAILURES.values()) as error:
                answer, found = Answer(failed=type(error).__name__, message=str(error)), bytearray()
            connection.send(answer, found)


def _answered(bucket: ObstoreBucket, request: Request, data: bytes) -> tuple[Answer, bytearray]:
    version: str | None = None
    match request.call:
        case "get":
            standing = bucket.get(request.key, part=request.part and range(*request.part))
            if standing is not None:
                answer = Answer(
                    version=standing.version, modified=standing.modified, size=len(standing.data)
                )
                return answer, standing.data
        case "version":
            version = bucket.version(request.key)
        case "create":
            version = bucket.create(request.key, data)
        case "update":
            version = bucket.update(request.key, data, request.version)
        case "overwrite":
            version = bucket.overwrite(request.key, data)
        case "remove":
            bucket.remove(request.key)
        case "check":
            bucket.check()
    return Answer(version=version), bytearray()


if __name__ == "__main__":
    serve(sys.argv[1], sys.stdin.read(), [int(fd) for fd in sys.argv[2:]])
    os._exit(0)  # obstore's threads may still wait for a store
