"""Puts the driver together: publisher, services, sockets; and runs it until SIGTERM."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import grpc

from clipfs import errors
from clipfs.cli.logs import hear_others
from clipfs.layer.layout import Layout
from clipfs.log import log
from csi.access.access import Access
from csi.cluster import taint
from csi.cluster.opening import open_cluster
from csi.cluster.pod_secrets import PodSecrets
from csi.collector import Collector
from csi.credentials.asking import Asking
from csi.credentials.handing import SOCKET, Handing
from csi.credentials.lending import Lending
from csi.credentials.sources import Sources
from csi.identity import Identity
from csi.launcher import Launcher
from csi.metrics.exposed import Metrics
from csi.metrics.http import serving
from csi.metrics.pages import pages_of
from csi.mounter import ClipMounter
from csi.node import Node
from csi.proto.csi_pb2_grpc import add_IdentityServicer_to_server, add_NodeServicer_to_server
from csi.proto.pluginregistration_pb2_grpc import add_RegistrationServicer_to_server
from csi.publisher import Publisher
from csi.readiness import Readiness
from csi.registration import Registration
from csi.server import THREADS, Endpoint, told_to_end
from csi.settings import DriverSettings
from csi.status.cluster_reporter import ClusterReporter
from csi.status.figures import NodeFigures
from csi.status.reporter import Reporter
from csi.watch import VolumeWatch

RENEW_S = 2
"""How soon the driver notices that one of its sockets has lost its name."""


def drive(driver: DriverSettings) -> None:
    """Adopt what there is, serve until SIGTERM, leave volumes as they are."""
    told = told_to_end()
    hear_others()
    layout = driver.tiers.layout
    collector = Collector(layout, driver.limits)
    cluster = open_cluster(driver.kubeconfig)
    if cluster is None and driver.startup_taint is not None:
        raise errors.InvalidInput(
            "--startup-taint needs a cluster to ask: give --kubeconfig, or run in a pod"
        )
    reporter = (
        ClusterReporter(cluster, driver.node_id, NodeFigures(layout)) if cluster else Reporter()
    )
    secrets = PodSecrets(cluster) if cluster is not None else None
    sources = driver.credentials.sources(secrets, driver.tiers.mirrors)
    handing = Handing(layout.run / SOCKET, Lending(sources))
    launcher = Launcher()
    publisher = _publisher(driver, launcher, collector, sources, handing, reporter)
    exposed = Metrics(layout, version=driver.version, cache_bytes=lambda: collector.kept_bytes)
    registration = Registration(driver.driver_name, driver.registration_endpoint)
    readiness = Readiness(registration if driver.registration_dir is not None else None)
    with _only_driver(layout), contextlib.ExitStack() as stack:
        if driver.metrics is not None:
            pages = pages_of(exposed.registry, readiness.lack)
            where = stack.enter_context(serving(driver.metrics, pages))
            log.info("metrics are served", address=str(where))
        stack.enter_context(launcher.running())
        publisher.adopt()
        stack.enter_context(handing.running())
        stack.enter_context(collector.running())
        stack.enter_context(reporter.running())
        if cluster is not None:
            stack.enter_context(VolumeWatch(layout, reporter).running())
        if cluster is not None and driver.startup_taint is not None:
            taint.start(
                cluster,
                taint=driver.startup_taint,
                node=driver.node_id,
                driver=driver.driver_name,
                ended=told,
            )
        endpoints = [_services(driver, publisher, reporter, exposed)]
        if driver.endpoint.parent.name == driver.driver_name:
            stack.callback(_remove_if_empty, driver.endpoint.parent)
        stack.callback(endpoints[0].close)
        readiness.serves(endpoints[0])
        if driver.registration_dir is not None:
            endpoints.append(_registered(driver, driver.registration_dir, registration))
            stack.callback(endpoints[1].close)
        log.info(
            "driver is ready",
            driver=driver.driver_name,
            node=driver.node_id,
            endpoint=str(driver.endpoint),
        )
        while not told.wait(RENEW_S):
            for one in endpoints:
                one.renew()
        log.info("driver ends, volumes stay")
        publisher.end()


def _publisher(
    driver: DriverSettings,
    launcher: Launcher,
    collector: Collector,
    sources: Sources,
    handing: Handing,
    reporter: Reporter,
) -> Publisher:
    mounter = ClipMounter(
        driver.tiers.layout,
        driver.tiers.keys,
        launcher,
        image_options=driver.image_options,
        mount_options=driver.mount_options,
        collector=collector,
    )
    access = Access(driver.tiers, grace_s=driver.access_grace_s, policy=driver.policy)
    asking = Asking(sources, namespaces=driver.credentials.namespaces)
    return Publisher(driver.tiers.layout, mounter, access.admit, asking, handing, reporter=reporter)


def _services(
    driver: DriverSettings, publisher: Publisher, reporter: Reporter, exposed: Metrics
) -> Endpoint:
    """The CSI socket."""

    def add(server: grpc.Server) -> None:
        add_IdentityServicer_to_server(Identity(driver.driver_name, driver.version), server)
        node = Node(driver.node_id, driver.rules, publisher, reporter, exposed.published)
        add_NodeServicer_to_server(node, server)

    return Endpoint(driver.endpoint, add, threads=THREADS)


def _registered(driver: DriverSettings, folder: Path, registration: Registration) -> Endpoint:
    """The socket by which the kubelet finds the driver."""

    def add(server: grpc.Server) -> None:
        add_RegistrationServicer_to_server(registration, server)

    return Endpoint(folder / f"{driver.driver_name}-reg.sock", add, threads=2)


@contextlib.contextmanager
def _only_driver(layout: Layout) -> Iterator[None]:
    """NodeFault if another driver lives on this root: each would undo what the other begins."""
    path = layout.run / "driver.lock"
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.NodeFault(
                f"another clip-csi runs on --root {layout.root}; end that first, or give this one "
                "a root of its own"
            ) from error
        yield


def _remove_if_empty(folder: Path) -> None:
    """Of `plugins/DRIVER`, the driver's own by Kubernetes' convention: none is left after it."""
    with contextlib.suppress(OSError):
        folder.rmdir()
