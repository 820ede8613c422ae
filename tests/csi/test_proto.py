"""The messages are those of the specifications: by number, type and name, and freshly generated."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor

from csi.proto import csi_pb2, pluginregistration_pb2

SOURCES = Path(csi_pb2.__file__).parent

TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_MESSAGE: "message",
}

# What CSI 1.x and the kubelet's plugin registration v1 say, in their order: number, name, type.
SPECIFIED = {
    "GetPluginInfoResponse": "1 name string, 2 vendor_version string",
    "GetPluginCapabilitiesResponse": "1 capabilities message*",
    "ProbeResponse": "1 ready message",
    "MountVolume": "1 fs_type string, 2 mount_flags string*, 3 volume_mount_group string",
    "AccessMode": "1 mode enum",
    "VolumeCapability": "1 block message, 2 mount message, 3 access_mode message",
    "NodePublishVolumeRequest":
        "1 volume_id string, 2 publish_context message*, 3 staging_target_path string, "
        "4 target_path string, 5 volume_capability message, 6 readonly bool, "
        "7 secrets message*, 8 volume_context message*",
    "NodeUnpublishVolumeRequest": "1 volume_id string, 2 target_path string",
    "NodeGetVolumeStatsRequest":
        "1 volume_id string, 2 volume_path string, 3 staging_target_path string",
    "VolumeUsage": "1 available int64, 2 total int64, 3 used int64, 4 unit enum",
    "NodeGetVolumeStatsResponse": "1 usage message*",
    "RPC": "1 type enum",
    "NodeServiceCapability": "1 rpc message",
    "NodeGetCapabilitiesResponse": "1 capabilities message*",
    "NodeGetInfoResponse": "1 node_id string, 2 max_volumes_per_node int64",
    "PluginInfo": "1 type string, 2 name string, 3 endpoint string, 4 supported_versions string*",
    "RegistrationStatus": "1 plugin_registered bool, 2 error string",
}  # fmt: skip

ENUMS = {
    "Mode": {
        "UNKNOWN": 0, "SINGLE_NODE_WRITER": 1, "SINGLE_NODE_READER_ONLY": 2,
        "MULTI_NODE_READER_ONLY": 3, "MULTI_NODE_SINGLE_WRITER": 4, "MULTI_NODE_MULTI_WRITER": 5,
        "SINGLE_NODE_SINGLE_WRITER": 6, "SINGLE_NODE_MULTI_WRITER": 7,
    },
    "Unit": {"UNKNOWN": 0, "BYTES": 1, "INODES": 2},
    "Type": {"UNKNOWN": 0, "GET_VOLUME_STATS": 2},
}  # fmt: skip

METHODS = [
    "csi.v1.Identity/GetPluginInfo", "csi.v1.Identity/GetPluginCapabilities",
    "csi.v1.Identity/Probe",
    "csi.v1.Node/NodePublishVolume", "csi.v1.Node/NodeUnpublishVolume",
    "csi.v1.Node/NodeGetVolumeStats", "csi.v1.Node/NodeGetCapabilities", "csi.v1.Node/NodeGetInfo",
    "pluginregistration.Registration/GetInfo",
    "pluginregistration.Registration/NotifyRegistrationStatus",
]  # fmt: skip

FILES: list[FileDescriptor] = [csi_pb2.DESCRIPTOR, pluginregistration_pb2.DESCRIPTOR]


def described(fields: Sequence[FieldDescriptor]) -> str:
    return ", ".join(
        f"{field.number} {field.name} {TYPES[field.type]}{'*' if field.is_repeated else ''}"
        for field in fields
    )


def test_every_field_has_the_number_and_type_that_the_specification_gives_it() -> None:
    found = {}
    waiting = [message for file in FILES for message in file.message_types_by_name.values()]
    for message in waiting:
        if not message.GetOptions().map_entry:
            waiting += message.nested_types
            found[message.name] = described(message.fields)
    assert {name: fields for name, fields in found.items() if fields} == SPECIFIED


def test_every_enum_value_has_the_number_that_the_specification_gives_it() -> None:
    waiting = [message for file in FILES for message in file.message_types_by_name.values()]
    found = {}
    for message in waiting:
        waiting += message.nested_types
        for enum in message.enum_types:
            found[enum.name] = {value.name: value.number for value in enum.values}
    assert found == ENUMS


def test_the_methods_have_the_names_by_which_the_kubelet_calls_them() -> None:
    found = [
        f"{service.full_name}/{method.name}"
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
    ]
    assert found == METHODS


@pytest.mark.skipif(
    importlib.util.find_spec("grpc_tools") is None
    or shutil.which("protoc-gen-mypy", path=str(Path(sys.executable).parent)) is None,
    reason="needs grpcio-tools and mypy-protobuf",
)
def test_the_generated_files_are_those_of_the_proto_files(tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    plugins = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    kinds = ("python", "grpc_python", "mypy", "mypy_grpc")
    sources = sorted(str(path) for path in SOURCES.glob("*.proto"))
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCES.parent.parent}",
         *(f"--plugin={name}={programs / name}" for name in plugins),
         *(f"--{kind}_out={tmp_path}" for kind in kinds), *sources],
        check=True, capture_output=True,
    )  # fmt: skip
    fresh = {path.name: path.read_text() for path in (tmp_path / "csi/proto").iterdir()}
    ours = {path.name: path.read_text() for path in SOURCES.glob("*_pb2*.py*") if path.is_file()}
    assert len(fresh) == 8
    assert fresh == ours
