"""What `python -m tests.soak tokens` is to do, and the figures of what came of it.

Not here: doing it (`tests.soak.tokens`).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from tests.soak.origins import Origin
from tests.soak.tenants import Tenant
from tests.support.tokens import Issued
from tests.support.watched_registry import BlobAnswer

FIRST, SECOND = ("first", "old-hush-word"), ("second", "new-hush-word")
EXPIRIES = 5
LAZY_SHARE = 0.1
"""Of the payload, at most, on the node's disk when the reads begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is done, in steps: in each every pod reads one layer.

    rest             between two steps; is given the registry with tokens
    republish_every  steps between two publishes of all volumes, as the kubelet's are
    rotate_at        the step from which on all secrets name the second user
    retire_at        the step from which on the first user is refused
    """

    layers: int = 100
    file_bytes: int = 200_000
    token_s: int = 60
    rest: Callable[[Origin], None] = lambda _: _wait(4)
    republish_every: int = 15
    rotate_at: int = 40
    retire_at: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """A token, and the blobs that the registry gave for it; times from the first read.

    refused_s  when it was refused for the first time; None: it never was
    """

    subject: str
    issued_s: float
    first_s: float
    last_s: float
    blobs: int
    refused_s: float | None

    def __str__(self) -> str:
        words = (
            f"{self.subject}, issued at {self.issued_s:.1f} s: {self.blobs} blobs from "
            f"{self.first_s:.1f} to {self.last_s:.1f} s"
        )
        if self.refused_s is None:
            return words
        lived_s = self.refused_s - self.issued_s
        return f"{words}; refused at {self.refused_s:.1f} s, {lived_s:.1f} s after it was issued"


@dataclass(slots=True, kw_only=True)
class Report:
    """logged  blobs that each pod was given since the registries started, by their own logs"""

    course: Course
    tenants: list[Tenant]
    begin_s: float = 0
    lasted_s: float = 0
    retired_s: float = 0
    payload_bytes: int = 0
    lazy_bytes: int = 0
    republished: int = 0
    logged: dict[str, int] = field(default_factory=dict)

    def given(self, tenant: Tenant) -> list[BlobAnswer]:
        """Blobs that the registry gave for its reads."""
        return [one for one in self._of(tenant) if one.status < 300]

    def refused(self, tenant: Tenant) -> list[BlobAnswer]:
        return [one for one in self._of(tenant) if one.is_refusal]

    def used(self, tenant: Tenant) -> list[Used]:
        """The tokens for which blobs were given, in their order."""
        times: dict[str, list[float]] = {}
        for one in self.given(tenant):
            times.setdefault(one.user, []).append(one.at_s - self.begin_s)
        refused: dict[str, float] = {}
        for one in self.refused(tenant):
            refused.setdefault(one.user, one.at_s - self.begin_s)
        issued: dict[str, Issued] = tenant.origin.issued
        return [
            Used(
                subject=subject,
                issued_s=issued[subject].at_s - self.begin_s,
                first_s=min(at),
                last_s=max(at),
                blobs=len(at),
                refused_s=refused.get(subject),
            )
            for subject, at in times.items()
            if subject in issued
        ]

    def expiries(self, tenant: Tenant) -> int:
        """Tokens that the registry refused in the end, after which it gave blobs for another."""
        return sum(
            before.refused_s is not None and before.refused_s < after.first_s
            for before, after in pairwise(self.used(tenant))
        )

    def wrong(self) -> list[str]:
        """What is not as promised, time apart."""
        found = []
        if self.lazy_bytes > LAZY_SHARE * self.payload_bytes:
            found.append(f"{self.lazy_bytes} bytes were on the node before the first read")
        for tenant in self.tenants:
            name, answers = tenant.pod.name, self.given(tenant)
            found += [f"{name}: {one.error}" for one in tenant.reads if one.error]
            logged, seen = self.logged[name], self._seen(tenant)
            if logged != seen:
                found.append(f"{name}: the registry's log has {logged} blobs given, seen {seen}")
            if len(answers) < len(tenant.reads):
                found.append(f"{name}: {len(answers)} blobs for {len(tenant.reads)} reads")
            late = [one for one in answers if one.at_s > self.retired_s]
            users = {one.user.partition("#")[0] for one in answers}
            if users != {FIRST[0], SECOND[0]} or not late:
                found.append(f"{name}: the registry gave blobs to {users}, {len(late)} late")
            if tenant.origin.issued and self.expiries(tenant) < EXPIRIES:
                found.append(f"{name}: it lived through {self.expiries(tenant)} expiries")
            if not self.refused(tenant):
                found.append(f"{name}: nothing was refused, so nothing was shown")
        return found

    def untimely(self) -> list[str]:
        """What is not when it was promised."""
        least_s = EXPIRIES * 60
        return [f"it took {self.lasted_s:.0f} s"] if self.lasted_s < least_s else []

    def __str__(self) -> str:
        course = self.course
        rows = [
            f"tokens: {len(self.tenants)} lazy mounts for {self.lasted_s:.0f} s, tokens last "
            f"{course.token_s} s, secrets rotated in step {course.rotate_at} of {course.layers}, "
            f"first user refused from {self.retired_s - self.begin_s:.0f} s on, "
            f"{self.republished} publishes of mounted volumes",
            f"  on the node before the first read: {self.lazy_bytes} of {self.payload_bytes} bytes",
        ]
        for tenant in self.tenants:
            rows.append(self._row(tenant))
            rows += [f"    {one}" for one in self.used(tenant)]
        return "\n".join(rows)

    def _row(self, tenant: Tenant) -> str:
        failed = sum(bool(one.error) for one in tenant.reads)
        answers = self.given(tenant)
        late = sum(one.at_s > self.retired_s for one in answers)
        by = f", {self.expiries(tenant)} expiries lived through" if tenant.origin.issued else ""
        return (
            f"  {tenant.pod.name}: {len(tenant.reads)} reads, {failed} failed, the longest "
            f"{max(one.took_s for one in tenant.reads):.2f} s; blobs from the registry: "
            f"{len(answers)} answers ({late} of them after the first user's end), "
            f"{len(self.refused(tenant))} refused at first{by}"
        )

    def _seen(self, tenant: Tenant) -> int:
        """Blobs that it was given since the registry started, as they went by."""
        blobs = tenant.origin.watched.blobs
        return sum(one.repository == tenant.repository and one.status < 300 for one in blobs)

    def _of(self, tenant: Tenant) -> list[BlobAnswer]:
        return [
            one
            for one in tenant.origin.watched.blobs
            if one.repository == tenant.repository and one.at_s >= self.begin_s
        ]


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)
