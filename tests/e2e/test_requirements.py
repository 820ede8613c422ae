"""A machine that cannot run the cluster is told what it lacks; nothing is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def check(**environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.cluster", "check"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_programs_that_are_missing_are_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "etcd").touch()
    code, said = check(CLUSTER_BIN=str(tmp_path))
    assert code == 1
    assert f"{tmp_path} has no kube-apiserver, kubelet" in said
    assert "make cluster-programs" in said
    assert "etcd" not in said
    assert "e2e.test" not in said, "only Kubernetes' own storage tests need it"


@pytest.mark.skipif(os.geteuid() != 0, reason="without root that is what is missing")
def test_a_kernel_without_tables_for_pods_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "nft"
    broken.write_text("#!/bin/sh\necho 'Operation not supported' >&2\nexit 1\n")
    broken.chmod(0o755)
    code, said = check(CLUSTER_BIN=str(tmp_path))
    assert code == 1
    assert "no network for pods: Operation not supported" in said or "not installed" in said
