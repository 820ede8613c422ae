"""The driver's errors, and which gRPC code each is: one row a class, held complete by a test.

Codes that the kubelet takes as "may still be running" are for errors that a retry can mend;
every other code is final, so all must be undone before it is sent.
Source: CSI specification, "Error Scheme" and the errors of each RPC.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from grpc import StatusCode

from clipfs import errors
from csi.cluster.errors import ApiRefused, ApiRejected, ApiUnavailable


class VolumeConflict(errors.ClipError):
    """The target holds a volume with other attributes. Unpublish that first."""

    code = "volume_conflict"


class VolumeNotFound(errors.ClipError):
    """There is no such volume at that path."""

    code = "volume_not_found"


class CallerGone(errors.ClipError):
    """Nobody waits for this call any more, so nothing was done."""

    code = "caller_gone"
    transient = True


class StillIndexing(errors.ClipError):
    """The image is not mounted yet, the work goes on: its text says how far it is. Call again."""

    code = "still_indexing"
    transient = True


class RefusedByPolicy(errors.ClipError):
    """The administrator's rules do not let this volume be. No credentials change that."""

    code = "refused_by_policy"


GRPC_CODE: dict[type[errors.ClipError], StatusCode] = {
    errors.InvalidInput: StatusCode.INVALID_ARGUMENT,
    errors.ImageNotFound: StatusCode.NOT_FOUND,
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.AccessDenied: StatusCode.PERMISSION_DENIED,
    errors.RegistryUnavailable: StatusCode.UNAVAILABLE,
    errors.CorruptImage: StatusCode.DATA_LOSS,
    errors.UnsupportedImage: StatusCode.FAILED_PRECONDITION,
    errors.DiskFull: StatusCode.RESOURCE_EXHAUSTED,
    errors.NodeFault: StatusCode.INTERNAL,
    VolumeConflict: StatusCode.ALREADY_EXISTS,
    VolumeNotFound: StatusCode.NOT_FOUND,
    CallerGone: StatusCode.CANCELLED,
    ApiUnavailable: StatusCode.UNAVAILABLE,
    ApiRefused: StatusCode.PERMISSION_DENIED,
    ApiRejected: StatusCode.INTERNAL,
    StillIndexing: StatusCode.ABORTED,
    RefusedByPolicy: StatusCode.PERMISSION_DENIED,
}


@contextmanager
def os_errors_named() -> Iterator[None]:
    """The node's own refusals, a read-only or a full disk among them, as NodeFault or DiskFull."""
    try:
        yield
    except OSError as error:
        raise errors.node_fault(error) from error


E = TypeVar("E", bound=BaseException)


def anew(error: E) -> E:
    """error, for one more thread to raise: that adds to a traceback, which is one's own here.

    Itself if it cannot be copied.
    """
    try:
        return copy.copy(error)
    except Exception:  # a foreign class may want anything
        return error
