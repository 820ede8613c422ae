"""What --content-cache takes."""

import pytest

from clipfs import errors
from clipfs.cli.settings import content_cache_urls


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        pytest.param([], [], id="none"),
        pytest.param(["http://a:1", "https://b/"], ["http://a:1", "https://b"], id="two"),
        pytest.param(["http://a:1", "http://a:1/"], ["http://a:1"], id="the same twice"),
        pytest.param(["https://[::1]:5"], ["https://[::1]:5"], id="IPv6"),
    ],
)
def test_urls_of_replicas_are_taken(given: list[str], urls: list[str]) -> None:
    assert content_cache_urls(tuple(given)) == tuple(urls)


@pytest.mark.parametrize("given", ["", "a:1", "http://", "http://a:0", "https://a/b", "ftp://a"])
def test_what_names_no_content_cache_is_refused_with_the_way_out(given: str) -> None:
    with pytest.raises(errors.InvalidInput, match=r"http://host:port"):
        content_cache_urls(("http://good:1", given))
