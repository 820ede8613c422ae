"""Kubernetes' own storage tests: its program e2e.test, told of a driver by a definition.

A definition says what a driver can; which tests there are follows from it. The tests' pods run
busybox, which is pushed under the name that the program asks for.

Not here: which tests apply, and what becomes of them (`test_kubernetes_storage`).
Source: Kubernetes, test/e2e/storage/external/README.md; Ginkgo, types.SpecReport.
"""

import copy
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.cluster import images
from tests.e2e.kubernetes import DRIVER, REGISTRY, Cluster
from tests.support.cluster_programs import BIN

PROGRAM = "e2e.test"
DEFINITION = Path(__file__).parent / "storage/driver.yaml"
OURS = f"External Storage [Driver: {DRIVER}] "
"""What the names of all tests of the driver begin with."""

FOCUS = rf"External.Storage.*{DRIVER}"
WITHIN = "4m"
CAPABILITIES = (
    "persistence", "block", "fsGroup", "exec", "snapshotDataSource", "snapshotMetadata",
    "groupSnapshot", "pvcDataSource", "multipods", "RWX", "controllerExpansion", "nodeExpansion",
    "offlineExpansion", "onlineExpansion", "volumeLimits", "topology", "capacity",
    "readWriteOncePod", "multiplePVsSameID", "capReadOnlyMany", "seLinuxMount",
)  # fmt: skip # one list
"""All that a definition may claim (test/e2e/storage/framework/testdriver.go), but for what takes
tests away again."""

FILE_SYSTEMS = ("", "ext3", "ext4", "xfs")
STRESSED = ("", "VolumeSnapshot", "VolumeModify", "VolumeGroupSnapshot")
STRESS = dict.fromkeys(("NumPods", "NumRestarts", "NumSnapshots"), 1)

Definition = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a test ended.

    state    passed, failed, skipped, timedout, ...
    message  what failed, or why the test skipped itself
    """

    state: str
    message: str


def our_definition() -> Definition:
    definition: Definition = yaml.safe_load(DEFINITION.read_text())
    (volume,) = definition["InlineVolumes"]
    volume["Attributes"] = {"image": f"{REGISTRY}/busybox:1"}
    return definition


def writable(definition: Definition, second: str) -> Definition:
    """The same, but for the claim that its inline volumes can be written; a second is of another
    image in the cluster's registry."""
    other = copy.deepcopy(definition)
    (volume,) = other["InlineVolumes"]
    volume["ReadOnly"] = False
    more = {**volume, "Attributes": {"image": f"{REGISTRY}/{second}"}}
    return {**other, "InlineVolumes": [volume, more]}


def claiming_everything(definition: Definition) -> Definition:
    """Of a driver that could do all that the tests know of: it has all tests there are."""
    other = copy.deepcopy(definition)
    other["DriverInfo"] |= {
        "Capabilities": dict.fromkeys(CAPABILITIES, True),
        "SupportedFsType": {name: {} for name in FILE_SYSTEMS},
        **{f"{kind}StressTestOptions": STRESS for kind in STRESSED},
    }
    for kind in ("StorageClass", "SnapshotClass", "GroupSnapshotClass"):
        other[kind] = {"FromName": True}
    return other


def names(definition: Definition, home: Path) -> set[str]:
    """Of all tests that there are for such a driver; no cluster is asked."""
    words = [str(BIN / PROGRAM), *_told(definition, home), "-list-tests"]
    done = subprocess.run(words, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.partition(OURS)[2] for line in done.stdout.splitlines() if OURS in line}


def run(definition: Definition, cluster: Cluster, home: Path) -> dict[str, Outcome]:
    """How the tests of such a driver end in the cluster: name -> outcome."""
    report = home / "report.json"
    options = [*_told(definition, home), *_images_of(cluster, home)]
    said = cluster.client(
        PROGRAM, *options, f"-ginkgo.focus={FOCUS}", "-ginkgo.fail-on-empty", "-ginkgo.no-color",
        f"-ginkgo.timeout={WITHIN}", f"-ginkgo.json-report={report}", "-dump-logs-on-failure=false",
    )  # fmt: skip # as typed by hand
    assert report.exists(), said
    return dict(_outcomes(json.loads(report.read_text())))


def _told(definition: Definition, home: Path) -> list[str]:
    file = home / "driver.json"
    file.write_text(json.dumps(definition))
    return [f"-storage.testdriver={file}"]


def _images_of(cluster: Cluster, home: Path) -> list[str]:
    """Return when the cluster's registry has the image of the tests' pods."""
    file, ours = home / "images.yaml", f"{REGISTRY}/e2e-test-images"
    file.write_text(f"promoterE2eRegistry: {ours}\n")
    option = f"-kube-test-repo-list={file}"
    listed = cluster.client(PROGRAM, option, "-list-images").split()
    (name,) = (one for one in listed if one.startswith(f"{ours}/busybox:"))
    images.busybox(home)
    cluster.push(home / "oci", name.removeprefix(f"{REGISTRY}/"))
    return [option]


def _outcomes(reports: list[dict[str, Any]]) -> Iterator[tuple[str, Outcome]]:
    for report in reports:
        for one in report["SpecReports"]:
            name = " ".join([*(one["ContainerHierarchyTexts"] or ()), one["LeafNodeText"]])
            if name.startswith(OURS):
                message = one.get("Failure", {}).get("Message", "")
                yield name.removeprefix(OURS), Outcome(one["State"], message)
