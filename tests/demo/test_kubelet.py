"""The demo's own message encodings, read by the product's generated classes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi.proto import csi_pb2
from demo import kubelet

TARGET = Path("/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/image/mount")


@settings(deadline=None)
@given(
    st.text(st.characters(codec="utf-8")),
    st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))),
)
def test_a_publish_request_says_what_the_kubelet_would(
    volume_id: str, context: dict[str, str]
) -> None:
    data = kubelet.publish_request(volume_id, TARGET, context)
    found = csi_pb2.NodePublishVolumeRequest.FromString(data)
    assert found.volume_id == volume_id
    assert found.target_path == str(TARGET)
    assert dict(found.volume_context) == context
    assert found.volume_capability.WhichOneof("access_type") == "mount"
    mode = found.volume_capability.access_mode.mode
    assert mode == csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_WRITER


def test_an_unpublish_request_names_volume_and_target() -> None:
    data = kubelet.unpublish_request("csi-1", TARGET)
    found = csi_pb2.NodeUnpublishVolumeRequest.FromString(data)
    assert (found.volume_id, found.target_path) == ("csi-1", str(TARGET))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        pytest.param(0, "0800", id="zero"),
        pytest.param(127, "087f", id="one byte"),
        pytest.param(128, "088001", id="two bytes"),
        pytest.param(1 << 63, "0880808080808080808001", id="64 bits"),
        pytest.param("ab", "0a026162", id="text"),
        pytest.param(b"", "0a00", id="an empty message is sent"),
    ],
)
def test_fields_are_protobufs(value: str | bytes | int, encoded: str) -> None:
    assert kubelet.field(1, value).hex() == encoded
