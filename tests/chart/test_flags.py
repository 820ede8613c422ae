"""Each word that a template passes is one of the command's options, and its value is taken.

The other way round, an option that no value of the chart sets is named here with its reason.
"""

import click
import pytest

from clipfs.cli.content_cache import serve
from csi.main import clip_csi
from tests.support.helm import container, needs_helm, rendered, sets_of_values

pytestmark = needs_helm

MATRIX = sets_of_values()
NODE: click.Command = clip_csi.commands["node"]
NOT_OFFERED = {
    "--registration-endpoint": "the socket has the same path for the kubelet",
    "--platform": "the node's own; a volume says another",
    "--kubeconfig": "the pod's service account",
    "--tls-cert": "tokens and digests protect what is sent in the cluster's own network",
    "--tls-key": "as --tls-cert",
    "--workers": "one a core, as it is by default",
    "--json": "for people and scripts that wait for the end",
    "--help": "of each command",
}


def _words(name: str) -> list[tuple[click.Command, list[str]]]:
    """The commands that a set of values starts, each with its words."""
    objects = rendered(MATRIX[name])
    node = container(objects, "DaemonSet")
    assert "command" not in node, "the image's own entry point"
    first, *words = node["args"]
    assert first == "node"
    found = [(NODE, words)]
    if any(one["kind"] == "StatefulSet" for one in objects):
        cache = container(objects, "StatefulSet")
        assert cache["command"] == ["clipfs", "content-cache", "serve"]
        found.append((serve, cache["args"]))
    return found


@pytest.mark.parametrize("name", MATRIX)
def test_every_word_is_an_option_whose_value_is_taken(name: str) -> None:
    for command, words in _words(name):
        assert all(word.startswith("--") for word in words)
        command.make_context(command.name, list(words))


def test_a_word_that_is_none_is_seen() -> None:
    for command, words in _words("defaults"):
        for wrong in ("--log-levl=info", "--log-level=trace", "--max-bytes=20G", "word"):
            with pytest.raises(click.UsageError):
                command.make_context(command.name, [*words, wrong]).close()


def test_every_option_is_offered_or_has_its_reason() -> None:
    offered, known = set(), set()
    for command, words in _words("everything"):
        offered |= {word.partition("=")[0] for word in words}
        known |= {name for option in command.params for name in option.opts if "--" in name}
    assert offered <= known
    assert known - offered == NOT_OFFERED.keys() - {"--help"}
