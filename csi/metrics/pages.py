"""The three pages: /metrics for Prometheus, /healthz and /readyz for the kubelet's probes.

/healthz says that this process answers, and no more: a probe that fails must not be able to end
what serves images. /readyz says whether the node can take volumes, and if not, why.
"""

from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from csi.metrics.http import Page, Pages


def pages_of(registry: CollectorRegistry, lack: Callable[[], str | None]) -> Pages:
    """lack  why the driver is not ready; None: it is"""

    def metrics(accept: str) -> Page:
        encode, content_type = choose_encoder(accept)
        return Page(content_type=content_type, body=encode(registry))

    def healthz(_: str) -> Page:
        return Page(body=b"ok\n")

    def readyz(_: str) -> Page:
        if (reason := lack()) is None:
            return Page(body=b"ok\n")
        return Page(status=HTTPStatus.SERVICE_UNAVAILABLE, body=f"{reason}\n".encode())

    return {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}
