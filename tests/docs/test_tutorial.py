"""docs/tutorial.md is a recorded run; what it says is what `tests.docs.record` can run again."""

from pathlib import Path

import pytest

from tests.docs.record import Shell, commands, recorded
from tests.docs.texts import DOCS, fenced

TUTORIAL = DOCS["tutorial.md"]
BLOCKS = fenced(TUTORIAL, "console")


def test_each_block_begins_with_a_command_and_most_have_an_answer() -> None:
    assert len(BLOCKS) > 10
    assert [one for one in BLOCKS if not one.startswith("$ ")] == []
    lines = "".join(BLOCKS).splitlines()
    assert len(lines) > 2 * len(commands("".join(BLOCKS)))


PAGE = """\
## A

`file.yaml`:

```yaml
a: 1
```

```console
$ alias say='echo it says'
$ say something; say more >&2
{}$ seq 2
1
2
```

```sh
exit 1
```
"""


def test_a_section_is_recorded_with_its_files_and_all_else_is_left_alone(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    said = "it says something\nit says more\n"
    assert recorded(PAGE.format("what it said before\n"), shell) == PAGE.format(said)
    assert (tmp_path / "file.yaml").read_text() == "a: 1\n"
    with pytest.raises(SystemExit, match="failed: false"):
        shell.says("false")
    shell.end()
