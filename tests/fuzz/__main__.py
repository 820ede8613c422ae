"""`python -m tests.fuzz TARGET`: fuzz, say what came of it, keep the corpus."""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from typing import cast

from tests.fuzz import corpus
from tests.fuzz.engine import Engine
from tests.fuzz.judge import Target
from tests.fuzz.targets import SPECS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=SPECS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--discard", action="store_true", help="leave the kept corpus as it is")
    parser.add_argument("--findings", type=Path, help="a folder for the inputs that break it")
    options = parser.parse_args()
    name = options.target
    target = cast("Target", importlib.import_module(f"tests.fuzz.targets.{name}"))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        home = Path(temporary)
        engine = Engine(name, home / "run")
        begin = corpus.unpack([*target.seeds(), *corpus.read(name)], home / "begin")
        report = engine.fuzz(begin, seconds=options.seconds, seed=options.seed)
        print(report, flush=True)
        for finding in report.findings:
            print(finding)
        if options.findings:
            options.findings.mkdir(parents=True, exist_ok=True)
            for path in engine.findings.iterdir():
                (options.findings / path.name).write_bytes(path.read_bytes())
        if not report.executions:
            print(report.log)
        if not options.discard:
            engine.merge(home / "merged", engine.new, begin)
            kept = [path.read_bytes() for path in (home / "merged").iterdir()]
            corpus.write(name, kept)
            print(f"{len(kept)} inputs kept, {corpus.path(name).stat().st_size} bytes")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
