"""Whether the node can take volumes: the CSI socket is served, and the kubelet knows of it."""

from csi.registration import Registration
from csi.server import Endpoint


class Readiness:
    """Of one driver, from its start to its end."""

    def __init__(self, registration: Registration | None) -> None:
        """registration  None: nobody is to be told of the driver"""
        self._registration = registration
        self._endpoint: Endpoint | None = None

    def serves(self, endpoint: Endpoint) -> None:
        """The CSI socket is this, from now on."""
        self._endpoint = endpoint

    def lack(self) -> str | None:
        """What is missing, in one line; None: nothing."""
        if self._endpoint is None:
            return "the CSI socket is not served yet"
        if not self._endpoint.is_there():
            return f"the CSI socket {self._endpoint.path} is gone"
        return self._registration.lack if self._registration is not None else None
