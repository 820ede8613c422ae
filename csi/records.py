"""What the driver keeps of each published volume, in `run/volumes`; mountinfo says what is mounted.
Of one whose mount has gone without an unpublish, as in a reboot, the same is in `run/left`.

Not here: when a record is written and removed (`csi.binds`).
"""

from pathlib import Path

import msgspec

from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.platform import host_platform
from clipfs.image.reference import parse_reference
from clipfs.layer.layout import Layout
from clipfs.mount.records import RecordStore
from clipfs.system.processes import boot_id
from csi.pod import Pod
from csi.status.reporter import Subject
from csi.volume import Volume


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One published volume.

    made  folders that the driver made for it, deepest first
    pod   "" or its name, in records of an older driver, where nobody has said more
    """

    volume_id: str
    target: str
    digest: str
    image: str
    attributes: dict[str, str]
    boot_id: str
    made: list[str]
    pod: Pod | str = ""


def volume_records(layout: Layout) -> RecordStore[VolumeRecord]:
    """By `csi.volume.name_of` their target."""
    return RecordStore(layout.run / "volumes", VolumeRecord)


def left_records(layout: Layout) -> RecordStore[VolumeRecord]:
    """The same, of volumes that the kubelet may publish again."""
    return RecordStore(layout.run / "left", VolumeRecord)


def record_of(volume: Volume, digest: Digest) -> VolumeRecord:
    """Of a volume that is about to be made: folders that are absent now will be made for it."""
    made = [one for one in (volume.target, *volume.target.parents) if not one.exists()]
    return VolumeRecord(
        volume_id=volume.volume_id,
        target=str(volume.target),
        digest=digest,
        image=str(volume.image),
        attributes=dict(volume.attributes),
        boot_id=boot_id(),
        made=[str(one) for one in made],
        pod=volume.pod or "",
    )


def subject_of_record(record: VolumeRecord) -> Subject | None:
    """Whom its reports are about; None where no kubelet has said which pod."""
    if isinstance(record.pod, str) or not record.pod.uid:
        return None
    return Subject(volume_id=record.volume_id, image=record.image, pod=record.pod)


def volume_of(record: VolumeRecord) -> Volume:
    """The volume again, for sources of credentials; what came with its publish alone is gone."""
    return Volume(
        volume_id=record.volume_id,
        target=Path(record.target),
        image=parse_reference(record.image),
        pull_policy="IfNotPresent",
        platform=host_platform(),
        front="auto",
        attributes=record.attributes,
        pod=record.pod if isinstance(record.pod, Pod) else None,
        credentials=RegistryConfig.empty(),
    )
