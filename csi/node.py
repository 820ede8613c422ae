"""The Node service: each method is one call to the publisher, errors renamed.

Source: CSI specification, "Node Service RPC".
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from clipfs import errors
from clipfs.image.reference import may_hold_secret
from clipfs.log import log
from csi.about import lines_about
from csi.calls import Call, wait_s
from csi.errors import GRPC_CODE, StillIndexing
from csi.pod import pod_of
from csi.proto import csi_pb2 as pb
from csi.proto.csi_pb2_grpc import NodeServicer
from csi.publisher import Publisher
from csi.status.reporter import Reporter, subject_said
from csi.status.texts import failure_text
from csi.volume import Volume, VolumeRules, parse_publish, parse_target, parse_volume_id, real_place

MAX_MESSAGE_CHARACTERS = 600
"""gRPC carries a status in 8 KiB of headers, twelve bytes a character at worst."""


OnEnd = Callable[[grpc.StatusCode, float], None]
"""Is told how a call has ended: its code, and the seconds that it took."""


class Node(NodeServicer):
    def __init__(
        self,
        node_id: str,
        rules: VolumeRules,
        publisher: Publisher,
        reporter: Reporter,
        on_published: OnEnd,
    ) -> None:
        self._node_id = node_id
        self._rules = rules
        self._publisher = publisher
        self._reporter = reporter
        self._on_published = on_published

    def NodePublishVolume(
        self, request: pb.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodePublishVolumeResponse:
        answer_by = time.monotonic() + wait_s(context.time_remaining())
        said = request.volume_context
        image = said.get("image", "")
        shown = "" if may_hold_secret(image) else image
        about = lines_about(request.volume_id, pod=str(pod_of(said) or ""), image=shown)
        with about, _renamed(context, "NodePublishVolume", self._on_published):
            volume = self._parsed(request)
            call = Call(still_wanted=context.is_active, answer_by=answer_by)
            self._publisher.publish(volume, call)
        return pb.NodePublishVolumeResponse()

    def _parsed(self, request: pb.NodePublishVolumeRequest) -> Volume:
        """What it asks for; people hear why it cannot be."""
        try:
            return parse_publish(request, self._rules)
        except errors.InvalidInput as error:
            said = request.volume_context
            subject = subject_said(request.volume_id, said.get("image", ""), pod_of(said))
            if subject is not None:
                self._reporter.refused(subject, error)
            raise

    def NodeUnpublishVolume(
        self, request: pb.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodeUnpublishVolumeResponse:
        with lines_about(request.volume_id), _renamed(context, "NodeUnpublishVolume"):
            volume_id = parse_volume_id(request.volume_id)
            target = parse_target(request.target_path, self._rules.kubelet_root)
            self._publisher.unpublish(volume_id, target, context.is_active)
        return pb.NodeUnpublishVolumeResponse()

    def NodeGetVolumeStats(
        self, request: pb.NodeGetVolumeStatsRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetVolumeStatsResponse:
        with lines_about(request.volume_id), _renamed(context, "NodeGetVolumeStats"):
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
def _renamed(
    context: grpc.ServicerContext, method: str, on_end: OnEnd = lambda *_: None
) -> Iterator[None]:
    """Send a ClipError as its gRPC code; anything else is a bug: INTERNAL, and logged whole."""
    begin, code = time.perf_counter(), grpc.StatusCode.OK
    try:
        yield
    except errors.ClipError as error:
        code = GRPC_CODE.get(type(error), grpc.StatusCode.INTERNAL)
        said = failure_text(error)[:MAX_MESSAGE_CHARACTERS]
        say = log.info if isinstance(error, StillIndexing) else log.warning
        say("call failed", method=method, code=code.name, error=said)
        context.abort(code, said)
    except Exception as error:
        code = grpc.StatusCode.INTERNAL
        log.exception("call failed; this is a bug", method=method)
        context.abort(code, f"internal error: {error!r}"[:MAX_MESSAGE_CHARACTERS])
    finally:
        on_end(code, time.perf_counter() - begin)
