"""Runs a worker over a corpus, and says what came of it; merges corpora."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.job import COUNTS, FOUND, Job
from tests.fuzz.judge import Outcome
from tests.fuzz.targets import SPECS
from tests.support.without import REPOSITORY

HANG_S = 10
"""For one input; the slowest that is right takes some milliseconds."""

MEMORY_MB = 768
IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where a target's files lie: a fuzzer that waits for a disk tries little."""

_FIXED_ADDRESSES = "$(setarch --addr-no-randomize true 2>/dev/null && echo setarch -R)"
"""libFuzzer's choices depend on addresses: without this, the same seed gives another run."""

_COVERAGE = re.compile(r"(INITED|DONE|NEW|REDUCE|pulse)\s+cov: (\d+) ft: (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run. counts  of inputs by Outcome; coverage  of branches, at the begin and the end"""

    target: str
    executions: int
    counts: dict[Outcome, int]
    coverage: tuple[int, int]
    findings: tuple[str, ...]
    log: str

    @property
    def share(self) -> float:
        """Of the inputs, those that passed the first check."""
        return 1 - self.counts[Outcome.STOPPED] / max(self.executions, 1)

    def __str__(self) -> str:
        begin, end = self.coverage
        read = self.counts[Outcome.READ] / max(self.executions, 1)
        return (
            f"{self.target}: {self.executions} executions, {self.share:.1%} of them passed the "
            f"first check, {read:.1%} were read to their end; coverage {begin} -> {end}; "
            f"{len(self.findings)} findings"
        )


class Engine:
    """Workers for one target, with what they need in home, a folder of their own."""

    def __init__(
        self,
        target: str,
        home: Path,
        *,
        change: tuple[str, str, str] | None = None,
        stop_at_first: bool = False,
        hang_s: int = HANG_S,
    ) -> None:
        self._target, self._hang_s = target, hang_s
        self.new = home / "new"
        self._counts, self._job = home / "counts", home / "job"
        self.findings = home / "findings"
        self._script = home / "worker"
        for folder in (self.new, self.findings):
            folder.mkdir(parents=True)
        self._script.write_text(
            # not exec: a process begins with the peak memory of who started it, which is judged
            f"#!/bin/sh\n{_FIXED_ADDRESSES} {sys.executable} "
            f'-m tests.fuzz.worker {self._job} "$@"\nexit $?\n'
        )
        self._script.chmod(0o755)
        job = Job(
            target=target,
            script=str(self._script),
            counts=str(self._counts),
            findings=str(self.findings),
            stop_at_first=stop_at_first,
            change=change,
        )
        self._job.write_text(json.dumps(job._asdict()))

    def fuzz(self, corpus: Path, *, runs: int = -1, seconds: int = 0, seed: int = 1) -> Report:
        """Mutate what is in corpus; inputs that add coverage go to `new`.

        runs  of inputs, those in corpus among them; the same seed gives the same inputs
        """
        limits = [f"-runs={runs}", f"-max_total_time={seconds}", f"-seed={seed}", "-reload=0"]
        done = self._run([*limits, str(self.new), str(corpus)], timeout_s=seconds + 600)
        numbers = COUNTS.unpack(self._counts.read_bytes())
        covered = [int(found[2]) for found in _COVERAGE.finditer(done.stderr)]
        return Report(
            target=self._target,
            executions=numbers[len(Outcome)],
            counts={outcome: numbers[outcome] for outcome in Outcome},
            coverage=(covered[0], covered[-1]) if covered else (0, 0),
            findings=(*self._found(), *_death(done)),
            log=done.stderr,
        )

    def merge(self, into: Path, *corpora: Path) -> None:
        """Copy to into the few inputs of corpora that have all the coverage."""
        into.mkdir(exist_ok=True)
        self._run(["-set_cover_merge=1", str(into), *map(str, corpora)], timeout_s=900)

    def _run(self, flags: list[str], *, timeout_s: int) -> subprocess.CompletedProcess[str]:
        self._counts.write_bytes(bytes(COUNTS.size))
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=IN_MEMORY) as scratch:
            return subprocess.run(
                [
                    self._script,
                    f"-max_len={SPECS[self._target].max_bytes}",
                    f"-timeout={self._hang_s}",
                    f"-rss_limit_mb={MEMORY_MB}",
                    f"-artifact_prefix={self.findings}/",
                    *flags,
                ],
                cwd=REPOSITORY,
                env={
                    **os.environ,
                    "PYTHONPATH": str(REPOSITORY),
                    "PYTHONHASHSEED": "0",
                    "TMPDIR": scratch,  # a worker that is ended cleans nothing up
                },
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout_s,
                check=False,
            )

    def _found(self) -> Iterable[str]:
        """The first lines of what was found; of a hang, a crash and a bomb the input's name."""
        for path in sorted(self.findings.iterdir()):
            if path.suffix == ".txt":
                yield path.read_text()
            elif path.suffix != ".input" and not path.name.startswith("slow-unit"):
                yield f"libFuzzer: {path.name}"


def _death(done: subprocess.CompletedProcess[str]) -> Iterable[str]:
    """That the fuzzer itself broke down, if it did."""
    if done.returncode not in (0, FOUND):
        yield f"the worker ended with {done.returncode}: {done.stderr[-2000:]}"
