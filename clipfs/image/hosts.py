"""The hosts that have a registry's images, for one caller, and in which order they are asked.

    hosts = Hosts(wire, held, mirrors)
    found = await hosts.first_good(reference, hosts.of(reference, by_digest=True), ask)

Whatever a mirror says that is not what was asked for, the next host is asked; the last one's
word holds. A host that did not answer is set back for a while.

Not here: what is asked (`clipfs.image.registry`); credentials (`clipfs.image.session`).
"""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from clipfs import errors
from clipfs.image.held import HeldCredentials
from clipfs.image.http import Wire
from clipfs.image.mirrors import Host, Mirrors
from clipfs.image.reference import Reference
from clipfs.image.session import Session
from clipfs.log import log

T = TypeVar("T")

SET_BACK_S = 60
"""For how long a host that did not answer is asked after the others."""


class Hosts:
    """Sessions with registries and their mirrors, kept as long as this lives."""

    def __init__(self, wire: Wire, held: HeldCredentials, mirrors: Mirrors) -> None:
        self._wire = wire
        self._held = held
        self._mirrors = mirrors
        self._known: dict[tuple[str, Host], Session] = {}
        self._set_back: dict[str, float] = {}  # base -> until when, on trio's clock

    def of(self, reference: Reference, *, by_digest: bool) -> list[Session]:
        """Those that are asked for what a digest or a tag names, in the administrator's order."""
        found = [
            self._session(reference.registry, host)
            for host in self._mirrors.hosts_of(reference.registry)
            if (host.may_pull if by_digest else host.may_resolve)
        ]
        if not found:
            what = "pull" if by_digest else "resolve"
            raise errors.NodeFault(
                f"{reference}: mirrors: no host of {reference.registry} has the capability {what}"
            )
        return found

    def all_of(self, reference: Reference) -> list[Session]:
        """Those that are asked for anything of reference's registry."""
        hosts = self._mirrors.hosts_of(reference.registry)
        return [self._session(reference.registry, host) for host in hosts]

    async def first_good(
        self,
        reference: Reference,
        sessions: list[Session],
        ask: Callable[[Session, bool], Awaitable[T]],
    ) -> T:
        """The first good answer. Only the last host is waited for, and its error is raised."""
        failed: dict[Session, errors.ClipError] = {}
        for session in sorted(sessions, key=self._is_set_back):
            try:
                return await ask(session, session is sessions[-1])
            except errors.ClipError as error:
                failed[session] = error
                if session is not sessions[-1]:
                    _tell(session, reference, error)
                if isinstance(error, errors.RegistryUnavailable):
                    self.set_back(str(session.base))
        raise failed[sessions[-1]]

    def set_back(self, base: str) -> None:
        """For a while, ask the other hosts first: this one does not answer, or breaks off."""
        self._set_back[base] = trio.current_time() + SET_BACK_S

    def _is_set_back(self, session: Session) -> bool:
        return self._set_back.get(str(session.base), -math.inf) > trio.current_time()

    def _session(self, registry: str, host: Host) -> Session:
        if (registry, host) not in self._known:
            self._known[registry, host] = Session(self._wire, self._held, registry, host)
        return self._known[registry, host]


def _tell(session: Session, reference: Reference, error: errors.ClipError) -> None:
    """Of a mirror that is passed by; one that has not got the image need not have it."""
    log.log(
        logging.INFO if isinstance(error, errors.ImageNotFound) else logging.WARNING,
        "mirror passed by",
        host=str(session.base),
        image=str(reference),
        error=str(error),
    )
