"""`--access-grace` and `--policy-file`, as a command gets them."""

from pathlib import Path
from typing import Any

import click
import pytest

from csi.access.options import access_options


def given(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    @click.command()
    @access_options
    def command(**values: Any) -> None:
        found.update(values)

    command.main(list(words), standalone_mode=False)
    return found


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24h", 86400),
        ("30m", 1800),
        ("90s", 90),
        ("0", 0),
        ("0h", 0),
        ("168h", 604800),
        ("87600h", 315360000),
    ],
)
def test_a_duration_is_a_number_and_its_unit(text: str, seconds: int) -> None:
    assert given("--access-grace", text)["access_grace_s"] == seconds


@pytest.mark.parametrize("text", ["99999999999h", "87601h", "9" * 10_000 + "s", "315360001s"])
def test_one_that_is_too_long_is_told_so(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is too long; at most 87600h") as caught:
        given("--access-grace", text)
    assert len(str(caught.value)) < 200


def test_what_is_not_said_is_a_day_and_no_policy() -> None:
    assert given() == {"access_grace_s": 86400, "policy_file": None}
    assert given("--policy-file", "/p.toml")["policy_file"] == Path("/p.toml")


@pytest.mark.parametrize("text", ["", "24", "1d", "-1h", "1.5h", "1h30m", "24 h", "h", "00", "1H"])
def test_anything_else_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 24h, 30m, 90s or 0"):
        given("--access-grace", text)
