"""Which images a provider is for: the kubelet's own rules, odd ones included."""

import pytest

from csi.credentials.matching import is_pattern, matches


@pytest.mark.parametrize(
    ("pattern", "image", "is_for"),
    [
        ("gcr.io", "gcr.io/team/app", True),
        ("gcr.io", "eu.gcr.io/team/app", False),
        ("*.gcr.io", "eu.gcr.io/team/app", True),
        ("*.gcr.io", "gcr.io/team/app", False),
        ("*.gcr.io", "a.b.gcr.io/app", False),
        ("*.*.gcr.io", "a.b.gcr.io/app", True),
        ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com/a", True),
        ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com.cn/a", False),
        ("k8s*.io", "k8s-gcr.io/app", True),
        ("app*.k8s.io", "app1.k8s.io/x", True),
        ("*", "gcr.io/app", False),
        ("*", "localhost/app", True),
        ("reg.io:8080", "reg.io:8080/app", True),
        ("reg.io:8080", "reg.io/app", False),
        ("reg.io", "reg.io:8080/app", False),
        ("reg.io:8080/path", "reg.io:8080/path/app", True),
        ("reg.io/path", "reg.io/other/path", False),
        ("reg.io/team", "reg.io/team-b/app", True),  # letters, not components
        ("reg.io/*", "reg.io/team", False),  # a path has no globs
        ("r?g.io", "reg.io/app", False),  # a ? begins a query
        ("r*g*.io", "registry.io/app", True),
        ("r*g*.io", "regxio/app", False),
        ("Reg.io", "reg.io/app", False),
        ("reg.io", "regxio/app", False),
        ("[::1]:5000", "[::1]:5000/app", True),
        ("[::2]:5000", "[::1]:5000/app", False),
        ("127.0.0.1:5000", "127.0.0.1:5000/app", True),
        ("127.*.0.1:5000", "127.9.0.1:5000/app", True),
    ],
)
def test_a_glob_stands_for_one_label_and_a_path_is_a_prefix(
    pattern: str, image: str, is_for: bool
) -> None:
    assert is_pattern(pattern)
    assert matches(pattern, image) == is_for


@pytest.mark.parametrize(
    "text",
    [
        "", "/path", "reg.io:port", "reg.io:*", "a:1:2", "?x", "reg[0-9].io", "r\\eg.io", "r^g.io",
        "u@reg.io", "reg io", "r%65g.io",
    ],
    ids=ascii,
)  # fmt: skip  # words in a row
def test_what_is_no_host_is_no_pattern(text: str) -> None:
    assert not is_pattern(text)
    assert not matches(text, "reg.io/app")
