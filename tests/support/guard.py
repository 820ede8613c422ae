"""A proxy before a private registry that takes a user's right away, and stops amid a layer.

guard = Guard(registry.address)
with run_web(guard) as web:
    guard.hold()                    downloads of layers stop halfway
    assert guard.at_gate.wait(60)   one has
    guard.revoked.add("alice")
    guard.let_go()                  it breaks off; what comes then comes whole
"""

import base64
import threading
from dataclasses import dataclass, field, replace

from tests.support.faulty_registry import on_downloads, relayed
from tests.support.web import Asked, Reply


@dataclass(slots=True)
class Guard:
    """`refusals` counts what it refused to those whose right is gone."""

    upstream: str
    revoked: set[str] = field(default_factory=set)
    refusals: int = 0
    at_gate: threading.Event = field(default_factory=threading.Event)
    _gate: threading.Event | None = None

    def hold(self) -> None:
        self.at_gate.clear()
        self._gate = threading.Event()

    def let_go(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.set()

    def __call__(self, asked: Asked) -> Reply:
        if user_of(asked) in self.revoked:
            self.refusals += 1
            return Reply(401, {"WWW-Authenticate": 'Basic realm="guard"'})
        reply, gate = relayed(self.upstream, asked), self._gate
        if gate is None or reply.status >= 300 or not on_downloads(asked) or len(reply.body) < 5000:
            return reply
        self.at_gate.set()
        return replace(reply, stops_at=len(reply.body) // 2, until=gate)


def user_of(asked: Asked) -> str:
    """Whose credentials it came with; "" without any."""
    encoded = asked.headers.get("authorization", "").removeprefix("Basic ")
    return base64.b64decode(encoded).decode().partition(":")[0]
