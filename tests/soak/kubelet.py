"""Publishes as the kubelet does: a deadline for each call, and a pause that doubles after each.

Source: Kubernetes, pkg/volume/csi/csi_plugin.go (csiTimeout);
pkg/util/goroutinemap/exponentialbackoff.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from tests.support.driver import Driver

CALL_S = 120.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 122.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One call's: when it began, how long it took, and what was said; OK is the volume."""

    began_s: float
    took_s: float
    code: str
    said: str


def publish(
    driver: Driver, pod: str, image: str, *, call_s: float = CALL_S, at_most_s: float
) -> Iterator[Answer]:
    """Each answer as it comes, the last one is final; TimeoutError once at_most_s have passed."""
    begin, pause_s = time.monotonic(), FIRST_PAUSE_S
    while True:
        answer = _called(driver, pod, image, call_s, begin)
        yield answer
        if answer.code not in ("ABORTED", "DEADLINE_EXCEEDED"):
            return
        if time.monotonic() - begin > at_most_s:
            raise TimeoutError(f"{image} is not there after {at_most_s:.0f} s: {answer.said}")
        threading.Event().wait(pause_s)
        pause_s = min(2 * pause_s, LAST_PAUSE_S)


def _called(driver: Driver, pod: str, image: str, call_s: float, begin: float) -> Answer:
    code, said = "OK", ""
    at = time.monotonic()
    try:
        driver.publish(pod, image, within_s=call_s)
    except grpc.RpcError as error:
        code, said = error.code().name, error.details() or ""
    return Answer(began_s=at - begin, took_s=time.monotonic() - at, code=code, said=said)
