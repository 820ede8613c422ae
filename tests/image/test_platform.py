"""Platforms: how they are written, and which image of a list is taken."""

import pytest

from clipfs import errors
from clipfs.image.platform import Platform, choose, host_platform, parse_platform

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        pytest.param("linux/amd64", AMD64, id="two"),
        pytest.param("linux/arm/v7", Platform("linux", "arm", "v7"), id="three"),
        pytest.param("Linux/AMD64", AMD64, id="capitals"),
    ],
)
def test_a_platform_is_written_os_arch_variant(text: str, platform: Platform) -> None:
    assert parse_platform(text) == platform
    assert parse_platform(str(platform)) == platform


@pytest.mark.parametrize(
    "text", ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b", "linux/ä", "a/b\n"]
)
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match="write OS/ARCH"):
        parse_platform(text)


@pytest.mark.parametrize(
    ("wanted", "offered", "place"),
    [
        pytest.param(AMD64, [ARM64, AMD64], 1, id="architecture"),
        pytest.param(AMD64, [Platform("windows", "amd64"), AMD64], 1, id="os"),
        pytest.param(AMD64, [AMD64, AMD64], 0, id="first-of-two"),
        pytest.param(AMD64, [None, AMD64], 1, id="behind-an-attestation"),
        pytest.param(AMD64, [Platform("linux", "amd64", "v3"), AMD64], 1, id="plain-before-v3"),
        pytest.param(
            AMD64,
            [Platform("linux", "amd64", "v3"), Platform("linux", "amd64", "v1")],
            1,
            id="amd64-is-v1",
        ),
        pytest.param(AMD64, [Platform("linux", "amd64", "v3")], 0, id="any-before-none"),
        pytest.param(ARM64, [Platform("linux", "arm64", "v8")], 0, id="arm64-is-v8"),
        pytest.param(Platform("linux", "arm64", "v8"), [ARM64], 0, id="v8-is-arm64"),
        pytest.param(
            Platform("linux", "arm", "v6"),
            [Platform("linux", "arm", "v7"), Platform("linux", "arm", "v6")],
            1,
            id="variant",
        ),
        pytest.param(
            Platform("linux", "arm", "v6"), [Platform("linux", "arm", "v7")], None, id="no-variant"
        ),
        pytest.param(AMD64, [ARM64, None], None, id="none"),
        pytest.param(AMD64, [], None, id="empty"),
    ],
)
def test_the_first_image_for_the_platform_is_taken(
    wanted: Platform, offered: list[Platform | None], place: int | None
) -> None:
    assert choose(wanted, offered) == place


def test_without_a_word_the_platform_is_this_machine_s() -> None:
    assert host_platform().os == "linux"
    assert choose(host_platform(), [host_platform()]) == 0
