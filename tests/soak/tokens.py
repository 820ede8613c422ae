"""Lazy mounts that outlive their tokens and their secrets, and go on reading all the time.

Four pods, each with an image of its own: of a registry with htpasswd and of one with tokens that
it takes for a minute; with a nodePublishSecretRef and with a pull secret. There is no content
cache and no payload on the node, and each read is of another layer, so each asks the registry.
In the middle the secrets are rotated to another user; then the first one is no more.
"""

import time
from contextlib import ExitStack
from pathlib import Path

from tests.soak.origins import Origin, basic_origin, push_lazy, token_origin
from tests.soak.tenants import PULL_SECRET, Cluster, Tenant, run_cluster
from tests.soak.token_report import FIRST, SECOND, Course, Report
from tests.support.driver import Driver, cleaned_up, run_driver


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
        driver = stack.enter_context(run_driver(home / "d", options, root=home / "root"))
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
    report.logged = {one.pod.name: _logged(one) for one in tenants}


def _logged(tenant: Tenant) -> int:
    asked = tenant.origin.server.blob_reads()
    return sum(path.startswith(f"/v2/{tenant.repository}/") for path in asked)


def _rotate(tenants: list[Tenant], cluster: Cluster) -> None:
    """Both users are let in until the first one retires."""
    for tenant in tenants:
        tenant.origin.let_in(dict([FIRST, SECOND]))
        if tenant.secret is None:
            name = f"{PULL_SECRET}-{tenant.origin.name}"
            cluster.pull_secret(name, tenant.origin.watched.address, *SECOND)
        else:
            tenant.secret = _pair(SECOND)
