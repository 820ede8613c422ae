"""`python -m tests.soak [NAME...]`: run for real minutes, print the figures, fail if one is bad."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.soak import slow_publish, tokens
from tests.soak.token_report import Course
from tests.support.apiserver import HAS_APISERVER


class Report(Protocol):
    def wrong(self) -> list[str]:
        """What is not as promised."""

    def untimely(self) -> list[str]:
        """What is not when it was promised."""


RUNS: dict[str, Callable[[Path], Report]] = {
    "tokens": lambda home: tokens.run(home, Course()),
    "slow-publish": lambda home: slow_publish.run(home, slow_publish.Size()),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}")
    names = parser.parse_args().names
    if unknown := set(names) - set(RUNS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    if "tokens" in (names or RUNS) and not HAS_APISERVER:
        parser.error("tokens needs a kube-apiserver: `make soak` builds it, into CLUSTER_BIN")
    return 1 if any([_fails(name) for name in names or RUNS]) else 0


def _fails(name: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as home:
        report = RUNS[name](Path(home))
    print(report, flush=True)
    complaints = report.wrong() + report.untimely()
    for one in complaints:
        print(f"  NOT AS PROMISED: {one}", flush=True)
    print(f"{name}: {'failed' if complaints else 'as promised'}", flush=True)
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
