"""`--startup-taint`: what it may be, and which of a node's taints it is then."""

import subprocess
from pathlib import Path

import pytest

from csi.cluster.taint import parse_taint
from tests.support.machine import CLIP_CSI

KEY = "clipfs.dev/not-ready"
PLAIN = {"key": KEY, "effect": "NoSchedule"}
NO_EXECUTE = {"key": KEY, "effect": "NoExecute"}
VALUE = {"key": KEY, "value": "yes", "effect": "NoSchedule"}
OTHER = {"key": "not-ready", "effect": "NoSchedule"}
LONGEST = f"{'d' * 253}/{'n' * 63}"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (KEY, [PLAIN, NO_EXECUTE, VALUE]),
        (f"{KEY}:NoSchedule", [PLAIN, VALUE]),
        (f"{KEY}=:NoSchedule", [PLAIN]),
        (f"{KEY}=", [PLAIN, NO_EXECUTE]),
        (f"{KEY}=yes:NoSchedule", [VALUE]),
        (f"{KEY}=yes", [VALUE]),
        (f"{KEY}=no:NoExecute", []),
        ("not-ready", [OTHER]),
    ],
)
def test_a_taint_is_meant_as_kubectl_writes_it(text: str, meant: list[dict[str, str]]) -> None:
    taint = parse_taint(text)
    assert [one for one in (PLAIN, NO_EXECUTE, VALUE, OTHER) if taint.is_it(one)] == meant


def test_the_longest_key_is_one() -> None:
    assert parse_taint(LONGEST).key == LONGEST


def node(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CLIP_CSI, "node", "--endpoint", f"unix://{tmp_path}/csi.sock", "--node-id", "n",
         "--kubelet-root", str(tmp_path), "--root", str(tmp_path / "root"), *options],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip  # as typed by hand


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "a b", "ä", "a/b/c", "/a", "a/", "-a", "a-", "=x", ":NoSchedule", f"{KEY}:"),
        *(f"{KEY}:noschedule", f"{KEY}=ä", f"{KEY}:NoSchedule-", f"{KEY}\n", "Upper.dev/a"),
        *("n" * 64, f"d{LONGEST}"),
    ],
)
def test_what_is_no_taint_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no taint; write KEY\[=VALUE\]\[:EFFECT\]"):
        parse_taint(text)


def test_it_is_a_usage_error(tmp_path: Path) -> None:
    done = node(tmp_path, "--startup-taint", "a b")
    assert (done.returncode, "'a b' is no taint" in done.stderr) == (2, True)
    assert not (tmp_path / "root").exists()


def test_without_a_cluster_it_is_refused(tmp_path: Path) -> None:
    done = node(tmp_path, "--startup-taint", KEY)
    assert done.returncode == 1, done.stderr
    assert "--startup-taint needs a cluster to ask" in done.stderr.splitlines()[-1]
