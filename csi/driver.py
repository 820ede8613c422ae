"""Puts the driver together: publisher, services, sockets; and runs it until SIGTERM."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import grpc
import structlog
import trio

from clipfs.image.credentials import RegistryConfig
from clipfs.image.model import Image
from clipfs.image.registry import Registry
from clipfs.tiers.stack import TierSettings
from csi.identity import Identity
from csi.mounter import ClipMounter
from csi.node import Node
from csi.proto.csi_pb2_grpc import add_IdentityServicer_to_server, add_NodeServicer_to_server
from csi.proto.pluginregistration_pb2_grpc import add_RegistrationServicer_to_server
from csi.publisher import Publisher
from csi.registration import Registration
from csi.server import THREADS, serving, wait_for_the_end
from csi.volume import Volume, VolumeRules

log = structlog.get_logger()


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
    mount_options: Sequence[str],
) -> None:
    """Adopt what there is, serve until SIGTERM, leave volumes as they are."""
    publisher = Publisher(
        settings.layout,
        ClipMounter(settings.layout, mount_options),
        lambda volume, credentials: _resolved(volume, credentials, settings.plain_http),
        settings.registry_config,
    )
    publisher.adopt()

    def add_services(server: grpc.Server) -> None:
        add_IdentityServicer_to_server(Identity(driver_name, version), server)
        add_NodeServicer_to_server(Node(node_id, rules, publisher), server)

    def add_registration(server: grpc.Server) -> None:
        where = registration_endpoint or str(endpoint)
        add_RegistrationServicer_to_server(Registration(driver_name, where), server)

    with contextlib.ExitStack() as stack:
        stack.enter_context(serving(endpoint, add_services, threads=THREADS))
        if registration_dir is not None:
            path = registration_dir / f"{driver_name}-reg.sock"
            stack.enter_context(serving(path, add_registration, threads=2))
        log.info("driver is ready", driver=driver_name, node=node_id, endpoint=str(endpoint))
        wait_for_the_end()
        log.info("driver ends, volumes stay")


def _resolved(volume: Volume, credentials: RegistryConfig, plain_http: frozenset[str]) -> Image:
    async def ask() -> Image:
        async with Registry.open(config=credentials, plain_http=plain_http) as registry:
            return await registry.resolve(volume.image, volume.platform)

    return trio.run(ask)
