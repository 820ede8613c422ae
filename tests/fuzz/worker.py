"""The process that fuzzes: `python -m tests.fuzz.worker JOB [libFuzzer's flags and folders]`.

libFuzzer ends it without leave, so what is counted and found lies in files from the start:
`counts`, four numbers by Outcome's order and then all; `<finding>.input` and `.txt`.
"""

import hashlib
import importlib
import json
import mmap
import os
import sys
import traceback
from pathlib import Path
from random import Random
from typing import cast

import atheris

from tests.fuzz import instrument
from tests.fuzz.job import COUNTS, FOUND, Job
from tests.fuzz.judge import Outcome, Target
from tests.fuzz.targets import SPECS


class Recorder:
    """Runs the target on one input after the other; counts, and keeps what breaks it."""

    def __init__(self, job: Job, target: Target) -> None:
        self._job = job
        self._target = target
        with open(job.counts, "r+b") as file:
            self._counts = mmap.mmap(file.fileno(), COUNTS.size)
        self._numbers = list(COUNTS.unpack(self._counts[:]))

    def run(self, data: bytes) -> None:
        self._count(len(Outcome))
        try:
            outcome = self._target.run(data)
        except Exception as error:
            self._keep(data, error)
            if self._job.stop_at_first:
                os._exit(FOUND)
        else:
            self._count(outcome)

    def mutate(self, data: bytes, max_bytes: int, seed: int) -> bytes:
        made = self._target.mutate(data, Random(seed), atheris.Mutate, max_bytes)
        return made[:max_bytes] or b"\0"

    def _count(self, number: int) -> None:
        self._numbers[number] += 1
        COUNTS.pack_into(self._counts, 0, *self._numbers)

    def _keep(self, data: bytes, error: Exception) -> None:
        """Of each place that raises, the shortest input."""
        frames = traceback.extract_tb(error.__traceback__)
        ours = [one for one in frames if f"{os.sep}fuzz{os.sep}judge" not in one.filename]
        place = f"{type(error).__name__} {ours[-1].filename}:{ours[-1].lineno}"
        path = Path(self._job.findings, hashlib.sha256(place.encode()).hexdigest()[:12])
        kept = path.with_suffix(".input")
        if kept.exists() and kept.stat().st_size <= len(data):
            return
        kept.write_bytes(data)
        text = "".join(traceback.format_exception(error))
        path.with_suffix(".txt").write_text(f"{place}\n{text}", errors="backslashreplace")


def main() -> None:
    raw = json.loads(Path(sys.argv[1]).read_text())
    job = Job(**raw)
    change = instrument.Change(*job.change) if job.change else None
    instrument.install(SPECS[job.target].modules, change)
    target = cast("Target", importlib.import_module(f"tests.fuzz.targets.{job.target}"))
    recorder = Recorder(job, target)
    atheris.Setup([job.script, *sys.argv[2:]], recorder.run, custom_mutator=recorder.mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
