"""The Node service: each method is one call to the publisher, errors renamed.

Source: CSI specification, "Node Service RPC".
"""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from clipfs import errors
from clipfs.log import log
from csi.errors import GRPC_CODE
from csi.proto import csi_pb2 as pb
from csi.proto.csi_pb2_grpc import NodeServicer
from csi.publisher import Publisher
from csi.volume import VolumeRules, parse_publish, parse_target, parse_volume_id, real_place

MAX_MESSAGE_CHARACTERS = 600
"""gRPC carries a status in 8 KiB of headers, twelve bytes a character at worst."""


class Node(NodeServicer):
    def __init__(self, node_id: str, rules: VolumeRules, publisher: Publisher) -> None:
        self._node_id = node_id
        self._rules = rules
        self._publisher = publisher

    def NodePublishVolume(
        self, request: pb.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodePublishVolumeResponse:
        with _renamed(context, "NodePublishVolume", request.volume_id):
            volume = parse_publish(request, self._rules)
            self._publisher.publish(volume, context.is_active)
        return pb.NodePublishVolumeResponse()

    def NodeUnpublishVolume(
        self, request: pb.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodeUnpublishVolumeResponse:
        with _renamed(context, "NodeUnpublishVolume", request.volume_id):
            volume_id = parse_volume_id(request.volume_id)
            target = parse_target(request.target_path, self._rules.kubelet_root)
            self._publisher.unpublish(volume_id, target, context.is_active)
        return pb.NodeUnpublishVolumeResponse()

    def NodeGetVolumeStats(
        self, request: pb.NodeGetVolumeStatsRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetVolumeStatsResponse:
        with _renamed(context, "NodeGetVolumeStats", request.volume_id):
            volume_id = parse_volume_id(request.volume_id)
            if not request.volume_path:
                raise errors.InvalidInput("volume path is missing")
            place = real_place(request.volume_path)
            total_bytes, names = self._publisher.usage(volume_id, place)
        usage = [
            pb.VolumeUsage(total=total, used=total, available=0, unit=unit)
            for total, unit in (
                (total_bytes, pb.VolumeUsage.BYTES),
                (names, pb.VolumeUsage.INODES),
            )
        ]
        return pb.NodeGetVolumeStatsResponse(usage=usage)

    def NodeGetCapabilities(
        self, request: pb.NodeGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetCapabilitiesResponse:
        rpc = pb.NodeServiceCapability.RPC
        stats = pb.NodeServiceCapability(rpc=rpc(type=rpc.GET_VOLUME_STATS))
        return pb.NodeGetCapabilitiesResponse(capabilities=[stats])

    def NodeGetInfo(
        self, request: pb.NodeGetInfoRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetInfoResponse:
        return pb.NodeGetInfoResponse(node_id=self._node_id)


@contextmanager
def _renamed(context: grpc.ServicerContext, method: str, volume_id: str) -> Iterator[None]:
    """Send a ClipError as its gRPC code; anything else is a bug: INTERNAL, and logged whole."""
    try:
        yield
    except errors.ClipError as error:
        code = GRPC_CODE.get(type(error), grpc.StatusCode.INTERNAL)
        said = str(error)[:MAX_MESSAGE_CHARACTERS]
        log.warning("call failed", method=method, volume=volume_id, code=code.name, error=said)
        context.abort(code, said)
    except Exception as error:
        log.exception("call failed; this is a bug", method=method, volume=volume_id)
        context.abort(
            grpc.StatusCode.INTERNAL, f"internal error: {error!r}"[:MAX_MESSAGE_CHARACTERS]
        )
