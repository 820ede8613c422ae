"""More registries in the cluster's network: a private one, two that misbehave, a slow one, one
that comes and goes.

They are processes or threads of the tests in the control plane's network namespace, as the
cluster's own registry is.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.kubernetes import HOST, REGISTRY
from tests.e2e.sample import random_image
from tests.support import images
from tests.support.netns import in_network
from tests.support.registry import RegistryServer, run_registry, write_htpasswd
from tests.support.scripted_registry import run_scripted_registry
from tests.support.throttle import Throttle, throttle

PRIVATE, DENYING, FOREIGN, SLOW, DOWN, COMING = (f"{HOST}:{port}" for port in range(5001, 5007))
IDENTITY, IDENTITY_TOKENS = f"{HOST}:5007", f"{HOST}:5008"
"""A registry, and its token server, of `tests.e2e.identities`."""

PLAIN_HTTP = (REGISTRY, PRIVATE, DENYING, FOREIGN, SLOW, DOWN, COMING, IDENTITY, IDENTITY_TOKENS)
USER, PASSWORD = "puller", "the-password-of-puller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registries:
    """private wants USER's PASSWORD; slow is the cluster's own registry behind a throttle.

    At DENYING all are refused (403), at FOREIGN images have a foreign layer, at DOWN is nobody.
    """

    private: RegistryServer
    slow: Throttle

    def push_private(self, layout: Path, name: str) -> str:
        """The reference of the image tagged `x` in layout, once it is there."""
        with in_network("n0"):
            return images.push(layout, PRIVATE, name, creds=f"{USER}:{PASSWORD}")


@contextmanager
def running_registries(home: Path) -> Iterator[Registries]:
    users = write_htpasswd(home / "htpasswd", {USER: PASSWORD})
    layout = random_image(home / "scripted").layout
    with ExitStack() as stack:
        with in_network("n0"):
            private = stack.enter_context(
                run_registry(home / "private", htpasswd=users, address=PRIVATE)
            )
            slow = stack.enter_context(throttle(REGISTRY, listen=SLOW))
            denying = stack.enter_context(run_scripted_registry(layout, listen=DENYING))
            foreign = stack.enter_context(run_scripted_registry(layout, listen=FOREIGN))
        denying.refuse["manifests"] = 403
        foreign.add_foreign_image()
        yield Registries(private=private, slow=slow)


@contextmanager
def registry_there() -> Iterator[None]:
    """The cluster's own registry is at COMING, too, in the block; else nobody is there."""
    with ExitStack() as stack:
        with in_network("n0"):
            stack.enter_context(throttle(REGISTRY, listen=COMING))
        yield
