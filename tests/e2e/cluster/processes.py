"""Programs of the cluster: started apart from who starts them, found again by their pid files."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.cluster.place import CONTROL, STATE, environment

POLL_S = 0.05
TAIL_BYTES = 2000


class NotUp(Exception):
    """The cluster, or a part of it, does not come up."""


def start(name: str, command: list[str]) -> None:
    """Run command in a session of its own; its output goes to `log/name`."""
    log = str(STATE / "log" / name)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, append, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    pid = os.posix_spawnp(
        command[0], command, environment(), file_actions=actions, setsid=True
    )  # not Popen, which holds who starts it to waiting for it
    (STATE / "pid" / name).write_text(str(pid))


def inside(node: str) -> list[str]:
    """Words before a command that is to run as a process of node."""
    if node == CONTROL:
        return ["nsenter", f"--net=/run/netns/{CONTROL}"]
    unshare = int((STATE / "pid" / f"{node}.ns").read_text())
    (first,) = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
    return ["nsenter", "-t", first, "-m", "-n", "-p"]


def run(*command: str, input: str | None = None) -> str:
    """What command says; NotUp with its complaint if it fails."""
    done = subprocess.run(
        command, input=input, env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NotUp(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def succeeds(*command: str) -> bool:
    done = subprocess.run(command, env=environment(), capture_output=True, check=False)
    return not done.returncode


def until(what: str, probe: Callable[[], bool], *needs: str, within_s: float = 60) -> None:
    """Return when probe says so; NotUp if it does not, or if a program that it needs has ended."""
    end = time.monotonic() + within_s
    while not probe():
        if ended := [name for name in needs if not _is_running(name)]:
            raise NotUp(f"{what}: {ended[0]} has ended: {_tail(ended[0])}")
        if time.monotonic() > end:
            raise NotUp(f"{what}: not within {within_s} s; the logs are in {STATE / 'log'}")
        time.sleep(POLL_S)


def end_all() -> None:
    """Kill whatever was started, and with each node's first process all that runs on it."""
    running = [name.name for name in (STATE / "pid").iterdir() if _is_running(name.name)]
    for name in running:
        os.kill(_pid(name), signal.SIGKILL)
    until("end of all programs", lambda: not any(map(_is_running, running)))


def _pid(name: str) -> int:
    return int((STATE / "pid" / name).read_text())


def _is_running(name: str) -> bool:
    """Whether it is ours still, and no later process that was given its number."""
    try:
        stat = Path(f"/proc/{_pid(name)}/stat").read_text()
        environ = Path(f"/proc/{_pid(name)}/environ").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    is_ours = f"KUBECONFIG={STATE}/" in environ or not environ  # nobody's while it becomes another
    return stat.rpartition(") ")[2][0] != "Z" and is_ours


def _tail(name: str) -> str:
    return (STATE / "log" / name).read_text(errors="replace")[-TAIL_BYTES:]
