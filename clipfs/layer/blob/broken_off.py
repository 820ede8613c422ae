"""How a source of a blob's bytes ends before their end.

Not here: what becomes of the download then (`clipfs.layer.blob.lane`).
"""

from clipfs import errors


class BrokenOff(Exception):
    """This source gives no more; another one may. `error` is what to say if there is none.

    status  of an answer that refuses, or is of no use; None: none came, or it ended too early
    """

    def __init__(
        self,
        error: errors.ClipError,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.status = status
        self.retry_after_s = retry_after_s


def refusal(what: str, status: int) -> errors.ClipError:
    """Of what, by an answer that is no success."""
    if status == 401:
        return errors.Unauthenticated(f"{what}: the registry wants other credentials (401)")
    if status == 403:
        return errors.AccessDenied(f"{what}: the registry refuses (403)")
    if status == 404:
        return errors.ImageNotFound(f"{what}: the registry has no such blob (404)")
    advice = "; try again later" if status == 429 or status >= 500 else ""
    return errors.RegistryUnavailable(f"{what}: the registry answers {status}{advice}")
