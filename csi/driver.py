"""Puts the driver together: publisher, services, sockets; and runs it until SIGTERM."""

import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc

from clipfs import errors
from clipfs.cache.limits import Limits
from clipfs.cli.logs import hear_others
from clipfs.layer.layout import Layout
from clipfs.log import log
from clipfs.tiers.settings import TierSettings
from csi.access.access import Access
from csi.access.policy import Policy
from csi.cluster import taint
from csi.cluster.opening import open_cluster
from csi.cluster.pod_secrets import PodSecrets
from csi.collector import Collector
from csi.credentials.asking import Asking
from csi.credentials.handing import SOCKET, Handing
from csi.credentials.lending import Lending
from csi.credentials.order import CredentialSettings
from csi.identity import Identity
from csi.metrics.exposed import Metrics
from csi.metrics.http import serving
from csi.metrics.options import Address
from csi.metrics.pages import pages_of
from csi.mounter import ClipMounter
from csi.node import Node
from csi.proto.csi_pb2_grpc import add_IdentityServicer_to_server, add_NodeServicer_to_server
from csi.proto.pluginregistration_pb2_grpc import add_RegistrationServicer_to_server
from csi.publisher import Publisher
from csi.readiness import Readiness
from csi.registration import Registration
from csi.server import THREADS, Endpoint, told_to_end
from csi.status.cluster_reporter import ClusterReporter
from csi.status.figures import NodeFigures
from csi.status.reporter import NoReporter
from csi.volume import VolumeRules
from csi.watch import Watch

RENEW_S = 2
"""How soon the driver notices that one of its sockets has lost its name."""


def drive(
    *,
    endpoint: Path,
    node_id: str,
    rules: VolumeRules,
    driver_name: str,
    registration_dir: Path | None,
    registration_endpoint: str | None,
    version: str,
    settings: TierSettings,
    image_options: Sequence[str],
    mount_options: Sequence[str],
    limits: Limits,
    credentials: CredentialSettings,
    access_grace_s: float,
    policy: Policy | None,
    metrics: Address | None,
    kubeconfig: Path | None,
    startup_taint: str | None,
) -> None:
    """Adopt what there is, serve until SIGTERM, leave volumes as they are.

    metrics  where they are served; None: no port is opened
    """
    told = told_to_end()
    hear_others()
    collector = Collector(settings.layout, limits)
    cluster = open_cluster(kubeconfig)
    reporter = (
        ClusterReporter(cluster, node_id, NodeFigures(settings.layout)) if cluster else NoReporter()
    )
    secrets = PodSecrets(cluster) if cluster is not None else None
    sources = credentials.sources(secrets, settings.mirrors)
    handing = Handing(settings.layout.run / SOCKET, Lending(sources))
    publisher = Publisher(
        settings.layout,
        ClipMounter(
            settings.layout,
            settings.keys,
            image_options=image_options,
            mount_options=mount_options,
            collector=collector,
        ),
        Access(settings, grace_s=access_grace_s, policy=policy).admit,
        Asking(sources, namespaces=credentials.namespaces),
        handing,
        reporter=reporter,
    )

    exposed = Metrics(settings.layout, version=version, cache_bytes=lambda: collector.kept_bytes)
    registration = Registration(driver_name, registration_endpoint or str(endpoint))
    readiness = Readiness(registration if registration_dir is not None else None)

    def add_services(server: grpc.Server) -> None:
        add_IdentityServicer_to_server(Identity(driver_name, version), server)
        add_NodeServicer_to_server(Node(node_id, rules, publisher, exposed.published), server)

    def add_registration(server: grpc.Server) -> None:
        add_RegistrationServicer_to_server(registration, server)

    with _only_driver(settings.layout), contextlib.ExitStack() as stack:
        if metrics is not None:
            pages = pages_of(exposed.registry, readiness.lack)
            where = stack.enter_context(serving(metrics, pages))
            log.info("metrics are served", address=str(where))
        publisher.adopt()
        stack.enter_context(handing.running())
        stack.enter_context(collector.running())
        if isinstance(reporter, ClusterReporter):
            stack.enter_context(reporter.running())
            stack.enter_context(Watch(settings.layout, reporter).running())
        if cluster is not None and startup_taint is not None:
            taint.start(cluster, key=startup_taint, node=node_id, driver=driver_name, ended=told)
        endpoints = [Endpoint(endpoint, add_services, threads=THREADS)]
        stack.callback(endpoints[0].close)
        readiness.serves(endpoints[0])
        if registration_dir is not None:
            path = registration_dir / f"{driver_name}-reg.sock"
            endpoints.append(Endpoint(path, add_registration, threads=2))
            stack.callback(endpoints[1].close)
        log.info("driver is ready", driver=driver_name, node=node_id, endpoint=str(endpoint))
        while not told.wait(RENEW_S):
            for one in endpoints:
                one.renew()
        log.info("driver ends, volumes stay")
        publisher.end()


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
