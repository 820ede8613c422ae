"""The Identity service: who this plugin is. Source: CSI specification, "Identity Service RPC"."""

import grpc
from google.protobuf.wrappers_pb2 import BoolValue

from csi.proto import csi_pb2 as pb
from csi.proto.csi_pb2_grpc import IdentityServicer


class Identity(IdentityServicer):
    def __init__(self, driver_name: str, version: str) -> None:
        self._driver_name = driver_name
        self._version = version

    def GetPluginInfo(
        self, request: pb.GetPluginInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetPluginInfoResponse:
        return pb.GetPluginInfoResponse(name=self._driver_name, vendor_version=self._version)

    def GetPluginCapabilities(
        self, request: pb.GetPluginCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.GetPluginCapabilitiesResponse:
        return pb.GetPluginCapabilitiesResponse()

    def Probe(self, request: pb.ProbeRequest, context: grpc.ServicerContext) -> pb.ProbeResponse:
        return pb.ProbeResponse(ready=BoolValue(value=True))
