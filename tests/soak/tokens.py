"""Lazy mounts that outlive their tokens and their secrets, and go on reading all the time.

Four pods, each with an image of its own: of a registry with htpasswd and of one with tokens that
it takes for a minute; with a nodePublishSecretRef and with a pull secret. There is no content
cache and no payload on the node, and each read is of another layer, so each asks the registry.
In the middle the secrets are rotated to another user; then the first one is no more.
"""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.soak.origins import Origin, basic_origin, push_lazy, token_origin
from tests.soak.tenants import PULL_SECRET, Cluster, Tenant, run_cluster
from tests.support.driver import Driver, cleaned_up, run_driver
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
    course: Course
    tenants: list[Tenant]
    begin_s: float = 0
    lasted_s: float = 0
    retired_s: float = 0
    payload_bytes: int = 0
    lazy_bytes: int = 0
    republished: int = 0

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
            if (logged := self._logged(tenant)) != (seen := self._seen(tenant)):
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

    def _logged(self, tenant: Tenant) -> int:
        """Blobs that it was given since the registry started, by the registry's own log."""
        asked = tenant.origin.server.blob_reads()
        return sum(path.startswith(f"/v2/{tenant.repository}/") for path in asked)

    def _seen(self, tenant: Tenant) -> int:
        """The same, as they went by."""
        blobs = tenant.origin.watched.blobs
        return sum(one.repository == tenant.repository and one.status < 300 for one in blobs)

    def _of(self, tenant: Tenant) -> list[BlobAnswer]:
        return [
            one
            for one in tenant.origin.watched.blobs
            if one.repository == tenant.repository and one.at_s >= self.begin_s
        ]


def run(home: Path, course: Course) -> Report:
    with ExitStack() as stack:
        cluster = stack.enter_context(run_cluster(home / "cluster"))
        files = {name: _push(home / name, course) for name in ("htpasswd", "tokens")}
        users = dict([FIRST])
        basic = stack.enter_context(basic_origin(home / "htpasswd", users))
        tokens = token_origin(home / "tokens", users, token_s=course.token_s)
        origins: list[Origin] = [basic, stack.enter_context(tokens)]
        tenants = [
            _tenant(cluster, origin, kind, files[origin.name][kind])
            for origin in origins
            for kind in ("own", "pulled")
        ]
        hosts = [host for origin in origins for host in origin.hosts]
        options = [
            *(word for host in hosts for word in ("--plain-http", host)),
            *("--kubeconfig", str(cluster.kubeconfig), "--pod-pull-secrets", "soak"),
        ]
        stack.enter_context(cleaned_up(home))
        driver = stack.enter_context(run_driver(home / "driver", options, root=home / "root"))
        report = Report(course=course, tenants=tenants)
        report.payload_bytes = _index(driver, tenants, home / "root")
        for tenant in tenants:
            tenant.publish(driver)
        report.lazy_bytes = _bytes_of(home / "root")
        _go(report, driver, cluster)
        for tenant in tenants:
            driver.unpublish(tenant.pod.name)
        return report


def _push(home: Path, course: Course) -> dict[str, dict[str, str]]:
    """An image for each kind of pod; the digests of its files by name."""
    return {
        kind: push_lazy(home, f"{kind}/app", layers=course.layers, file_bytes=course.file_bytes)
        for kind in ("own", "pulled")
    }


def _tenant(cluster: Cluster, origin: Origin, kind: str, files: dict[str, str]) -> Tenant:
    name = f"{origin.name}-{'secret' if kind == 'own' else 'pull-secret'}"
    secret_name = f"{PULL_SECRET}-{origin.name}"
    pull_secret = secret_name if kind == "pulled" else ""
    if pull_secret:
        cluster.pull_secret(pull_secret, origin.watched.address, *FIRST)
    return Tenant(
        pod=cluster.pod(name, pull_secret),
        origin=origin,
        repository=f"{kind}/app",
        files=files,
        secret=None if pull_secret else _pair(FIRST),
    )


def _pair(user: tuple[str, str]) -> dict[str, str]:
    return {"username": user[0], "password": user[1]}


def _index(driver: Driver, tenants: list[Tenant], root: Path) -> int:
    """Have the node index all images, and lose their payloads, of so many bytes."""
    for tenant in tenants:
        tenant.publish(driver)
        driver.unpublish(tenant.pod.name)
    count = _bytes_of(root)
    for path in (root / "cache").iterdir():
        path.unlink()
    return count


def _bytes_of(root: Path) -> int:
    """What the node has of payloads."""
    found = [*(root / "cache").iterdir(), *(root / "partial").iterdir()]
    return sum(path.stat().st_blocks * 512 for path in found)


def _go(report: Report, driver: Driver, cluster: Cluster) -> None:
    course, tenants = report.course, report.tenants
    origins = {tenant.origin.name: tenant.origin for tenant in tenants}
    report.begin_s, begin = time.time(), time.monotonic()
    for step in range(course.layers):
        if step == course.rotate_at:
            _rotate(tenants, cluster)
        if step == course.retire_at:
            for origin in origins.values():
                origin.let_in(dict([SECOND]))
            report.retired_s = time.time()
        if step % course.republish_every == 0:
            for tenant in tenants:
                tenant.publish(driver)
            report.republished += len(tenants)
        for tenant in tenants:
            tenant.read(driver, f"file-{step}")
        course.rest(origins["tokens"])
    report.lasted_s = time.monotonic() - begin


def _rotate(tenants: list[Tenant], cluster: Cluster) -> None:
    """Both users are let in until the first one retires."""
    for tenant in tenants:
        tenant.origin.let_in(dict([FIRST, SECOND]))
        if tenant.secret is None:
            name = f"{PULL_SECRET}-{tenant.origin.name}"
            cluster.pull_secret(name, tenant.origin.watched.address, *SECOND)
        else:
            tenant.secret = _pair(SECOND)


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)
