"""`python -m tests.fuzz [TARGET...]`: fuzz, say what came of it, keep the corpus."""

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
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(SPECS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--discard", action="store_true", help="leave the kept corpus as it is")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), metavar="FOLDER",
                        help="for the inputs that break one (%(default)s)")  # fmt: skip
    options = parser.parse_args()
    if unknown := set(options.targets) - set(SPECS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    failed = [name for name in options.targets or SPECS if not _is_clean(name, options)]
    return 1 if failed else 0


def _is_clean(name: str, options: argparse.Namespace) -> bool:
    """Fuzz one target; whether nothing was found."""
    target = cast("Target", importlib.import_module(f"tests.fuzz.targets.{name}"))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        home = Path(temporary)
        engine = Engine(name, home / "run")
        begin = corpus.unpack([*target.seeds(), *corpus.read(name)], home / "begin")
        report = engine.fuzz(begin, seconds=options.seconds, seed=options.seed)
        print(report, flush=True)
        for finding in report.findings:
            print(finding)
        for path in engine.findings.iterdir():
            kept_at = options.findings / name / path.name
            kept_at.parent.mkdir(parents=True, exist_ok=True)
            kept_at.write_bytes(path.read_bytes())
            print(f"its input: {kept_at}")
        if not report.executions:
            print(report.log)
        if not options.discard:
            engine.merge(home / "merged", engine.new, begin)
            kept = [path.read_bytes() for path in (home / "merged").iterdir()]
            corpus.write(name, kept)
            print(f"{len(kept)} inputs kept, {corpus.path(name).stat().st_size} bytes")
    return not report.findings


if __name__ == "__main__":
    sys.exit(main())
