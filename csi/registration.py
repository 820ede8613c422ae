"""Makes the driver known to the kubelet, without a sidecar.

The kubelet finds our socket in its plugins_registry, asks who we are and connects to the CSI
endpoint; when it restarts it finds the socket again.
Source: Kubernetes, pkg/kubelet/pluginmanager, plugin registration API v1.
"""

import grpc

from clipfs.log import log
from csi.proto import pluginregistration_pb2 as pb
from csi.proto.pluginregistration_pb2_grpc import RegistrationServicer

CSI_VERSION = "1.12.0"
MAX_SAID_CHARACTERS = 300


class Registration(RegistrationServicer):
    """`lack` is why the kubelet does not know the driver; None: it does."""

    def __init__(self, driver_name: str, endpoint: str) -> None:
        """endpoint  path of the CSI socket as the kubelet sees it"""
        self._driver_name = driver_name
        self._endpoint = endpoint
        self.lack: str | None = "the kubelet has not registered the driver yet"

    def GetInfo(self, request: pb.InfoRequest, context: grpc.ServicerContext) -> pb.PluginInfo:
        return pb.PluginInfo(
            type="CSIPlugin",
            name=self._driver_name,
            endpoint=self._endpoint,
            supported_versions=[CSI_VERSION],
        )

    def NotifyRegistrationStatus(
        self, request: pb.RegistrationStatus, context: grpc.ServicerContext
    ) -> pb.RegistrationStatusResponse:
        if request.plugin_registered:
            self.lack = None
            log.info("registered with the kubelet", driver=self._driver_name)
        else:
            said = " ".join(request.error.split())
            self.lack = f"the kubelet refuses the driver: {said[:MAX_SAID_CHARACTERS]}"
            log.error("the kubelet refuses the driver", error=request.error)
        return pb.RegistrationStatusResponse()
