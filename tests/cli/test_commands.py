"""The installed `clipfs`: options, JSON, exit codes and logs, word for word."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import HOSTILE, Small
from tests.support.machine import CLIPFS, needs_fuse
from tests.support.node import Node, alive
from tests.support.wait import wait_for

COMMANDS = ["mount", "unmount", "index", "ls", "stats", "cache", "cache list", "cache verify",
            "cache collect", "content-cache", "content-cache serve"]  # fmt: skip


def run(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    return node.run(*words, check=False)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(command: str, node: Node) -> None:
    done = node.run(*command.split(), "--help")
    assert done.stdout.startswith(f"Usage: clipfs {command}".rstrip())
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["mount", "x"], id="missing-argument"),
        pytest.param(["mount", "x", "y", "--keeper", "z"], id="option-of-a-later-version"),
        pytest.param(["nonsense"], id="unknown-command"),
        pytest.param(["stats", "--log-level", "loud"], id="unknown-value"),
        pytest.param(["stats", "extra"], id="extra-argument"),
        pytest.param(["stats", "--root", ""], id="empty-root"),
        pytest.param(["unmount", ""], id="empty-path"),
        pytest.param(["keeper"], id="command-of-a-later-version"),
        pytest.param(["unmount"], id="nothing-to-unmount"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_nothing_on_stdout(words: list[str], node: Node) -> None:
    done = run(node, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: clipfs" in done.stderr


def shape(value: Any) -> Any:
    """The keys and types of a JSON value."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value[:1]]
    return type(value)


LAYER = {"digest": str, "cache_key": str, "media_type": str, "size": int, "payload_size": int,
         "complete": bool}  # fmt: skip
TIER = {"reads": int, "bytes": int}


@needs_fuse
def test_each_commands_json_is_one_object_of_the_promised_shape(
    node: Node, small: Small, tmp_path: Path
) -> None:
    common = {"image": str, "digest": str, "entries": int, "bytes": int, "layers": [LAYER]}
    assert shape(node.json("index", small.image)) == {
        **common, "seconds": {"resolve": float, "index": float, "total": float}
    }  # fmt: skip
    mounted = node.mount(small.image, tmp_path / "m", "--front", "fuse")
    assert shape(mounted) == {
        **common,
        "front": str,
        "pid": int,
        "seconds": {"resolve": float, "index": float, "mount": float, "total": float},
    }
    assert (mounted["front"], mounted["entries"], mounted["bytes"]) == ("fuse", 7, 1536)
    assert alive(mounted["pid"])
    stats = node.json("stats")
    mount = {"image": str, "digest": str, "mountpoint": str, "front": str, "pid": int}
    troubles = {"errors": int, "verify_failures": int}
    tiers = {"disk": TIER, "content_cache": TIER | troubles, "registry": TIER}
    fill = {"background_fill": {"state": str, "layers": int, "bytes": int}}
    assert shape(stats) == {**tiers, "storing": [], "mounts": [{**mount, **tiers, **fill}]}
    assert stats["registry"]["bytes"] == sum(row["size"] for row in mounted["layers"])
    assert (tmp_path / "m/usr/lib/x").read_bytes() == b"x" * 1536
    assert node.json("stats")["mounts"][0]["disk"] == {"reads": 1, "bytes": 1536}
    assert shape(node.json("ls", small.image, "usr/lib/x")["entries"]) == [
        {"name": str, "mode": str, "links": int, "uid": int, "gid": int, "size": int,
         "mtime_ns": int}
    ]  # fmt: skip
    assert node.json("unmount", str(tmp_path / "m")) == {"mountpoint": str(tmp_path / "m")}


def listed(node: Node, small: Small, *path: str) -> list[str]:
    return [row["name"] for row in node.json("ls", small.image, *path)["entries"]]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        pytest.param("/usr", ["lib"], id="folder"),
        pytest.param("usr/lib/x", ["x"], id="file"),
        pytest.param("lib", ["x"], id="symlink-to-a-folder"),
        pytest.param("lib/x", ["x"], id="through-a-symlink"),
        pytest.param("/dangling", ["dangling"], id="dangling-symlink"),
        pytest.param("..", ["dangling", "lib", "to-hostile", "usr"], id="above-the-root"),
    ],
)
def test_ls_lists_a_folder_or_one_name(
    path: str, names: list[str], node: Node, small: Small
) -> None:
    found = listed(node, small, path)
    assert [name for name in found if os.fsencode(name) != HOSTILE] == names


@pytest.mark.parametrize("path", ["nowhere", "usr/lib/x/", "usr/lib/x/y", "dangling/"])
def test_ls_of_what_is_not_there_fails_with_the_name(path: str, node: Node, small: Small) -> None:
    done = run(node, "ls", small.image, path, "--root", str(node.root), *node.options, "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "image_not_found"
    assert path in error["message"]


def test_ls_lets_no_name_of_an_image_steer_the_terminal(node: Node, small: Small) -> None:
    done = run(node, "ls", small.image, "--root", str(node.root), *node.options)
    assert done.returncode == 0
    lines = done.stdout.split("\n")
    assert len(lines) == 6
    assert all(line.isprintable() for line in lines)
    assert r"\x1b]0;owned\x07\x1b[2J\r\n\udcff" in done.stdout
    named = [os.fsencode(name) for name in listed(node, small)]
    assert HOSTILE in named


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_log_lines_are_json_objects_of_the_level_asked_for(
    level: str, node: Node, small: Small
) -> None:
    done = run(node, "index", small.image, "--root", str(node.root), *node.options,
               "--log-format", "json", "--log-level", level)  # fmt: skip
    levels = {json.loads(line)["level"] for line in done.stderr.splitlines()}
    order = ["debug", "info", "warning", "error"]
    assert levels <= set(order[order.index(level) :])
    assert ("info" in levels) == (level in ("debug", "info"))
    assert ("warning" in levels) == (level != "error")  # "ContentCache not configured"


def test_log_lines_are_text_by_default(node: Node, small: Small) -> None:
    done = run(node, "index", small.image, "--root", str(node.root), *node.options)
    assert "OCI CACHE MISS - downloading and decompressing layer" in done.stderr
    assert not done.stderr.startswith("{")
    assert "\x1b" not in done.stderr
    assert done.stdout.count("\n") == 1


def test_bars_are_shown_on_a_terminal_and_stdout_stays_json(node: Node, small: Small) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [CLIPFS, "index", small.image, "--root", str(node.root), *node.options, "--json"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        shown = _all_of(ours)
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["entries"] == 7
    assert "layer " in shown
    assert "━" in shown


def _all_of(fd: int) -> str:
    pieces = []
    try:
        while piece := os.read(fd, 1 << 16):
            pieces.append(piece)
    except OSError:  # EIO: the other side is closed
        pass
    os.close(fd)
    return b"".join(pieces).decode()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        pytest.param(["--platform", "linux/s390x"], "image_not_found", "s390x", id="platform"),
        pytest.param(["--platform", "nonsense"], "invalid_input", "nonsense", id="no-platform"),
        pytest.param(["--registry-config", "/no/file"], "invalid_input", "/no/file", id="config"),
        pytest.param(["--index-key-file", "/no/key"], "invalid_input", "/no/key", id="key"),
        pytest.param(["--content-cache-token-file", "/dev/null"], "invalid_input", "/dev/null",
                     id="token"),
        pytest.param(["--content-cache", "ftp://x"], "invalid_input", "ftp://x", id="cache"),
        pytest.param(["--content-cache", "http://a:1", "--content-cache", "https://b/c"],
                     "invalid_input", "https://b/c", id="path"),
        pytest.param(["--content-cache", "http://[::1"], "invalid_input", "http://[::1", id="half"),
        pytest.param(["--content-cache", "http://a:1?b"], "invalid_input", "a:1?b", id="query"),
        pytest.param(["--content-cache", "http://a:99999"], "invalid_input", "a:99999", id="port"),
        pytest.param(["--content-cache", "http://u:p@a:1"], "invalid_input", "token", id="login"),
        pytest.param(["--root", "/proc/x"], "invalid_input", "/proc/x", id="root"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_met_is_named(
    options: list[str], code: str, message: str, node: Node, small: Small
) -> None:
    words = ["--root", str(node.root), *node.options, *options]
    done = run(node, "index", small.listed, *words, "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == code
    assert message in error["message"]
    assert message in done.stderr.splitlines()[-1]


def test_a_mount_that_may_ask_for_credentials_is_of_a_digest(
    node: Node, small: Small, tmp_path: Path
) -> None:
    words = ["--root", str(node.root), *node.options, "--credentials-socket", str(tmp_path / "s")]
    done = run(node, "mount", small.listed, str(tmp_path / "m"), *words, "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "invalid_input"
    assert "must be named by its digest" in error["message"]
    assert not (tmp_path / "m").exists()


def test_a_platform_of_the_list_is_taken(node: Node, small: Small) -> None:
    digest = node.json("index", small.image)["digest"]
    found = node.json("index", small.listed, "--platform", "linux/amd64")
    assert found["digest"] == digest


def test_without_plain_http_a_registry_is_asked_by_https(node: Node, small: Small) -> None:
    done = run(node, "index", small.image, "--root", str(node.root), "--json")
    assert json.loads(done.stdout)["error"]["code"] == "registry_unavailable"


@needs_fuse
@pytest.mark.parametrize("where", ["//{home}/m", "{home}/to-here/m", "{home}/x/../m", "m"])
def test_a_mount_point_may_be_written_in_any_way(
    where: str, node: Node, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "to-here").symlink_to(".")
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    node.mounted.append(tmp_path / "m")
    node.mount(small.image, Path(where.format(home=tmp_path)))
    assert node.json("stats")["mounts"][0]["mountpoint"] == str(tmp_path / "m")
    node.unmount(Path(where.format(home=tmp_path)))
    assert os.listdir(tmp_path / "m") == []


@needs_fuse
def test_two_mounts_of_one_image_are_two_servers(node: Node, small: Small, tmp_path: Path) -> None:
    one, two = (
        node.mount(small.image, tmp_path / name, "--front", "fuse") for name in ("one", "two")
    )
    assert one["pid"] != two["pid"]
    assert {row["pid"] for row in node.json("stats")["mounts"]} == {one["pid"], two["pid"]}
    node.unmount(tmp_path / "one")
    wait_for(lambda: not alive(one["pid"]))
    assert (tmp_path / "two/usr/lib/x").read_bytes() == b"x" * 1536


@needs_fuse
def test_sigterm_makes_the_server_unmount_and_leave(
    node: Node, small: Small, tmp_path: Path
) -> None:
    pid = node.mount(small.image, tmp_path / "m", "--front", "fuse")["pid"]
    held = {os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()}
    assert not [one for one in held if one.startswith("pipe:")]
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not alive(pid))
    assert os.listdir(tmp_path / "m") == []
    assert os.listdir(node.root / "run/mounts") == []


@needs_fuse
def test_in_the_foreground_it_serves_itself_and_logs_to_its_stderr(
    node: Node, small: Small, tmp_path: Path
) -> None:
    node.mounted.append(tmp_path / "m")
    with subprocess.Popen(
        [CLIPFS, "mount", small.image, str(tmp_path / "m"), "--root", str(node.root),
         *node.options, "--foreground", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["pid"] == process.pid
        assert (tmp_path / "m/usr/lib/x").stat().st_size == 1536
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "unmounting" in said
    assert not (node.root / "run/log").exists()


@needs_fuse
def test_a_failed_mount_leaves_no_folder_of_its_own(
    node: Node, small: Small, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    node.mounted.append(tmp_path / "a/b/c")
    wrong = (["--platform", "linux/s390x"], ["--index-key-file", "/none"], ["--mount-context", "x"])
    for words in wrong:
        done = run(node, "mount", small.listed, str(tmp_path / "a/b/c"),
                   "--root", str(node.root), *node.options, *words)  # fmt: skip
        assert done.returncode == 1
    assert os.listdir(tmp_path / "a") == []


WITHOUT_FUSE = """
mount -t tmpfs -o nodev none "$1" && mknod "$1/fuse" c 10 229 &&
mount --bind "$1/fuse" /dev/fuse && shift && exec "$@"
"""
"""In a mount namespace of its own, where the device is there and cannot be opened."""


@needs_fuse
def test_a_node_without_fuse_is_named_and_keeps_nothing_of_the_mount(
    node: Node, small: Small, tmp_path: Path
) -> None:
    (tmp_path / "dev").mkdir()
    command = [CLIPFS, "mount", small.image, str(tmp_path / "mnt"), "--root", str(node.root),
               "--front", "fuse"]  # fmt: skip
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", WITHOUT_FUSE, "sh", str(tmp_path / "dev"),
         *command, *node.options], capture_output=True, text=True, check=False,
    )  # fmt: skip # the shell's words, then ours
    assert done.returncode == 1
    assert "/dev/fuse: Permission denied" in done.stderr
    assert not (tmp_path / "mnt").exists()
    assert list((node.root / "run").glob("mounts/*")) == []


REFUSES = {
    "full": ("rw", "disk_full", "No space left on device"),
    "read-only": ("ro", "node_fault", "Read-only file system"),
}
"""How a disk is mounted that is full -> the error's code, and what the system says of it."""


@needs_fuse
@pytest.mark.parametrize("how", REFUSES)
def test_a_disk_that_refuses_is_the_node_s_fault_and_no_bug(
    how: str, node: Node, small: Small, tmp_path: Path
) -> None:
    option, code, reason = REFUSES[how]
    node.json("index", small.image)
    node.root.rename(tmp_path / "before")
    node.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "root", node.root], check=True)
    try:
        subprocess.run(["cp", "-a", f"{tmp_path}/before/.", node.root], check=True)
        for path in (node.root / "cache").iterdir():  # its bytes must be fetched again
            path.unlink()
        subprocess.run(["dd", "if=/dev/zero", f"of={node.root}/filler"], stderr=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", f"remount,{option}", node.root], check=True)
        done = run(
            node, "mount", small.image, str(tmp_path / "mnt"), "--root", str(node.root),
            *node.options, "--front", "erofs", "--json",
        )  # fmt: skip
    finally:
        subprocess.run(["umount", "--lazy", node.root], check=True)
    assert json.loads(done.stdout)["error"]["code"] == code
    assert reason in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@needs_fuse
def test_a_mount_whose_server_says_nothing_is_unmounted_at_once(
    node: Node, small: Small, tmp_path: Path
) -> None:
    pid = node.mount(small.image, tmp_path / "m", "--front", "fuse")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        command = [CLIPFS, "unmount", str(tmp_path / "m"), "--root", str(node.root)]
        with subprocess.Popen(command) as process:
            wait_for(lambda: f" {tmp_path}/m " not in Path("/proc/self/mountinfo").read_text())
            os.kill(pid, signal.SIGCONT)
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGCONT)
    assert process.returncode == 0


def test_stats_of_a_folder_that_is_not_there_make_none(node: Node, tmp_path: Path) -> None:
    done = run(node, "stats", "--root", str(tmp_path / "typo"), "--json")
    assert json.loads(done.stdout)["error"]["code"] == "invalid_input"
    assert not (tmp_path / "typo").exists()
