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
        pytest.param(["s3://bucket/a/b"], ["s3://bucket/a/b"], id="store"),
    ],
)
def test_urls_of_replicas_are_taken(given: list[str], urls: list[str]) -> None:
    assert content_cache_urls(tuple(given)) == tuple(urls)


@pytest.mark.parametrize("given", ["", "a:1", "http://", "http://a:0", "https://a/b", "ftp://a"])
def test_what_names_no_content_cache_is_refused_with_the_way_out(given: str) -> None:
    with pytest.raises(errors.InvalidInput, match=r"http://host:port"):
        content_cache_urls(("http://good:1", given))


@pytest.mark.parametrize("given", ["s3://", "gs:///prefix", "az://c?x=1", "s3://key:sesame@b/p"])
def test_what_names_no_object_store_is_refused_before_it_is_opened(given: str) -> None:
    with pytest.raises(errors.InvalidInput, match=r"s3://bucket/prefix") as raised:
        content_cache_urls((given,))
    assert "sesame" not in str(raised.value)


@pytest.mark.parametrize("given", ["http://u:sesame@a:1", "https://u:sesame@a/b", "ftp://sesame@a"])
def test_a_password_in_a_url_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(errors.InvalidInput, match="no name or password") as raised:
        content_cache_urls((given,))
    assert "sesame" not in str(raised.value)
