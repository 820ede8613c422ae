"""`python -m tests.docs.record [HEADING]...`, as root: runs the tutorial, and writes what it says.

Of docs/tutorial.md the sections with these headings, or all. In a block of ```console a line that
begins with `$ ` is a command, the lines after it are what it said. All are given to one bash, in
their order, and what each says now takes the place of what it said. A command that fails ends it,
and the page stays as it was. A block below a line "`NAME`:" is a file, put into FOLDER before.
Blocks of ```sh are not run.
"""

import re
import subprocess
import sys
from pathlib import Path

from tests.docs.texts import ROOT

TUTORIAL = ROOT / "docs/tutorial.md"
END = "--- that was all:"
FOLDER = Path("/tmp/tutorial")

_FENCED = re.compile(r"(?:^`([\w.-]+)`:\n\n)?^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


class Shell:
    """One bash, in the checkout, with aliases as where a person types."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._bash = subprocess.Popen(
            ["bash"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.says("exec 2>&1; shopt -s expand_aliases")

    def says(self, command: str) -> str:
        """Whole lines; SystemExit if the command fails."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f'{{ {command}\n}} </dev/null\nprintf "\\n{END}%d\\n" $?\n')
        self._bash.stdin.flush()
        said = ""
        for line in self._bash.stdout:
            if line.startswith(END):
                break
            said += line
        else:
            raise SystemExit(f"{said}\nthe shell has ended at: {command}")
        said = said.removesuffix("\n")
        print(f"$ {command}\n{said}", end="", flush=True)
        if line != f"{END}0\n":
            raise SystemExit(f"failed: {command}")
        return said if said.endswith("\n") or not said else f"{said}\n"

    def put(self, name: str, content: str) -> None:
        (self._folder / name).write_text(content)

    def end(self) -> None:
        with self._bash as bash:
            assert bash.stdin is not None
            bash.stdin.close()


def commands(block: str) -> list[str]:
    """Of a block of ```console."""
    return [line[2:] for line in block.splitlines() if line.startswith("$ ")]


def recorded(section: str, shell: Shell) -> str:
    """The section with what its commands say now."""

    def again(found: re.Match[str]) -> str:
        name, kind, block = found.groups()
        if name is not None:
            shell.put(name, block)
        if kind != "console":
            return found[0]
        said = "".join(f"$ {one}\n{shell.says(one)}" for one in commands(block))
        return f"```console\n{said}```\n"

    return _FENCED.sub(again, section)


def main(headings: list[str]) -> None:
    sections = re.split(r"^(?=## )", TUTORIAL.read_text(), flags=re.MULTILINE)
    shell = Shell()
    for number, section in enumerate(sections):
        heading = section.partition("\n")[0].removeprefix("## ")
        if not headings or heading in headings:
            sections[number] = recorded(section, shell)
    shell.end()
    TUTORIAL.write_text("".join(sections))


if __name__ == "__main__":
    main(sys.argv[1:])
