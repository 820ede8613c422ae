"""docs/tutorial.md is a recorded run; what it says is what `tests.docs.record` can run again."""

import shlex
from pathlib import Path

import pytest
import yaml

from tests.docs.record import Shell, commands, recorded
from tests.docs.texts import DOCS, ROOT, fenced
from tests.support.helm import helm, needs_helm

TUTORIAL = DOCS["tutorial.md"]
HELM = ["helm", "install"]
OF_THE_CLUSTER = {"--create-namespace", "--wait", "--hide-notes"}
BLOCKS = fenced(TUTORIAL, "console")


def test_each_block_begins_with_a_command_and_most_have_an_answer() -> None:
    assert len(BLOCKS) > 10
    assert [one for one in BLOCKS if not one.startswith("$ ")] == []
    lines = "".join(BLOCKS).splitlines()
    assert len(lines) > 2 * len(commands("".join(BLOCKS)))


@needs_helm
def test_its_helm_command_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    [words] = [one for one in map(shlex.split, commands("".join(BLOCKS))) if one[:2] == HELM]
    given = [one for one in words[2:] if one not in OF_THE_CLUSTER]
    objects = list(yaml.safe_load_all(helm("template", *given)))
    assert "--plain-http=10.88.0.1:5000" in str(objects)


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
