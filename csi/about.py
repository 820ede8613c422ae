"""Which volume log lines are about: each that a call writes has `volume`, `pod` and `image`.

They are bound to the call's thread, and to what that runs by trio; who goes on in another thread
takes them along by `contextvars.copy_context`. Lines of a server name the volume that it was
first started for.
"""

from contextlib import AbstractContextManager

import msgspec
from structlog.contextvars import bind_contextvars, bound_contextvars, get_contextvars

MAX_CHARACTERS = 300
"""Of a field; callers choose what they send, and it is one argument of a command."""


def lines_about(volume_id: str, *, pod: str = "", image: str = "") -> AbstractContextManager[None]:
    """While the block runs every line of this thread names them; "" is what nobody has said."""
    return bound_contextvars(**_fields(volume=volume_id, pod=pod, image=image))


def also_about(*, pod: str, image: str) -> None:
    """What the volume's record says, until the block of `lines_about` ends."""
    bind_contextvars(**_fields(pod=pod, image=image))


def fields_for_a_server() -> str:
    """Volume and pod of this thread's call, as `clipfs mount --log-fields` takes them; what image
    it serves it says itself."""
    return _bound("volume", "pod")


def fields_for_a_command() -> str:
    """The same, with the image as the pod names it."""
    return _bound("volume", "pod", "image")


def _bound(*names: str) -> str:
    bound = get_contextvars()
    known = {name: bound[name] for name in names if bound.get(name)}
    return msgspec.json.encode(known).decode()


def _fields(**given: str) -> dict[str, str]:
    return {name: value[:MAX_CHARACTERS] for name, value in given.items()}
