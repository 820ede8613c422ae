"""`python -m demo`: plays the demo on a stage of its own, and clears it.

Exit code 0: all as promised; 1: something is not, and one line says what; 128 + n: ended by
signal n. Whatever the code, nothing is left behind.
"""

import os
import shutil
import subprocess
import sys
import time

import httpx

from demo.checks import require
from demo.play import play
from demo.show import Show
from demo.stage import NotAsPromised, Stopped, staged

TEXT = """\
A pod names an image as a volume and sees its whole tree at once; bytes arrive when they are read.
Node A pays the registry once. Node B, and every node after it, moves only what its pod reads."""


def main() -> int:
    show, begin = Show(), time.monotonic()
    try:
        check_machine()
        show.heading("clip-csi", TEXT)
        with staged() as stage:
            play(stage, show)
        seconds = time.monotonic() - begin
        show.done(f"All as promised, in {seconds:.0f} s. No mount, process or file is left.")
    except NotAsPromised as error:
        show.failed(f"not as promised: {error}")
        return 1
    except Stopped as stopped:
        show.failed(f"{stopped}; no mount, process or file is left")
        return stopped.exit_code
    except (OSError, subprocess.SubprocessError, httpx.HTTPError) as error:
        show.failed(f"this machine is in the way: {error!r}; no mount, process or file is left")
        return 1
    return 0


def check_machine() -> None:
    """NotAsPromised if the demo cannot run here at all."""
    require(os.geteuid() == 0, "it mounts, so it must be run as root")
    require(os.path.exists("/dev/fuse"), "this machine has no /dev/fuse")
    for program in ("docker-registry", "dpkg-query", "chroot", "umount"):
        require(shutil.which(program) is not None, f"{program} is not installed; run `make demo`")


if __name__ == "__main__":
    sys.exit(main())
