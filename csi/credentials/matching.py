"""Which images a credential provider is for: globs, as the kubelet reads them.

    *.dkr.ecr.*.amazonaws.com     gcr.io     registry.io:8080/path

A * stands for what is within one label of a host, never for a dot; ports are equal or both
absent; a path is a prefix, of letters, not of components. What follows "?" or "#" is not looked
at, as in a URL; other signs that Go's globs have cannot be in a URL's host.

Source: Kubernetes, pkg/credentialprovider/keyring.go (URLsMatch); Go, net/url, path/filepath.
"""

import re

_HOST = re.compile(r"(?P<host>\[[0-9a-fA-F:]*\]|[^][\\^`{}|%@:\s]+)(?::(?P<port>[0-9]*))?")


def is_pattern(text: str) -> bool:
    """Whether text could be one; the kubelet refuses a configuration with any that is none."""
    return _HOST.fullmatch(_split(text)[0]) is not None


def is_glob(text: str) -> bool:
    """Whether text stands for more than one place."""
    return "*" in _split(text)[0]


def matches(pattern: str, image: str) -> bool:
    """Whether image, `host[:port]/path`, is among those that pattern stands for."""
    (host, path), (image_host, image_path) = _split(pattern), _split(image)
    wanted, given = _labels(host), _labels(image_host)
    if wanted is None or given is None or not image_path.startswith(path):
        return False
    (labels, port), (image_labels, image_port) = wanted, given
    if port != image_port or len(labels) != len(image_labels):
        return False
    return all(_label_matches(one, other) for one, other in zip(labels, image_labels, strict=True))


def _split(text: str) -> tuple[str, str]:
    """Host with port, and the path with its slash."""
    host, slash, path = re.split("[?#]", text)[0].partition("/")
    return host, slash + path


def _labels(host: str) -> tuple[list[str], str] | None:
    found = _HOST.fullmatch(host)
    return None if found is None else (found["host"].split("."), found["port"] or "")


def _label_matches(glob: str, label: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, glob.split("*"))), label) is not None
