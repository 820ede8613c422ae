"""How the Kubernetes API fails, named by what can be done about it."""

from clipfs.errors import ClipError


class ApiUnavailable(ClipError):
    """No answer, a 5xx or a 429. A retry may help."""

    code = "api_unavailable"
    transient = True


class ApiRefused(ClipError):
    """The driver may not do that (401, 403). Bind a role to its service account."""

    code = "api_refused"


class ApiRejected(ClipError):
    """The API has no such thing, has another one, or takes no such object (other 4xx)."""

    code = "api_rejected"

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
