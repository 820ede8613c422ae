"""Which images a credential provider is for: globs, as the kubelet reads them.

    *.dkr.ecr.*.amazonaws.com     gcr.io     registry.io:8080/path

A glob stands for one label of a host, never for a dot; ports are equal or both absent; a path
is a prefix, of letters, not of components. A "?" begins what is not looked at, as in a URL.

Source: Kubernetes, pkg/credentialprovider/keyring.go (URLsMatch); Go, path/filepath (Match).
"""

import re

_HOST = re.compile(r"(?P<host>\[[0-9a-fA-F:]*\]|[^:]*)(?::(?P<port>[0-9]*))?")
_CLASS = re.compile(r"\[(\^?)((?:\\.|[^\]\\])+)\]")


def is_pattern(text: str) -> bool:
    """Whether text could be one; the kubelet refuses a configuration with any that is none."""
    host, _ = _split(text)
    return bool(host) and _HOST.fullmatch(host) is not None


def is_glob(text: str) -> bool:
    """Whether text stands for more than one place."""
    return any(sign in _split(text)[0] for sign in "*[\\")


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
    if found is None:
        return None
    name, port = found["host"], found["port"]
    return (name if port is None else name.strip("[]")).split("."), port or ""


def _label_matches(glob: str, label: str) -> bool:
    try:
        return re.fullmatch(_expression(glob), label) is not None
    except re.error:  # a range from z to a: Go calls the pattern bad, and so it matches nothing
        return False


def _expression(glob: str) -> str:
    made, at = "", 0
    while at < len(glob):
        one = _CLASS.match(glob, at)
        if one:
            made += f"[{'^' if one[1] else ''}{_class_body(one[2])}]"
            at = one.end()
        elif glob[at] == "[":
            raise re.error("a class without an end")
        elif glob[at] == "\\" and at + 1 < len(glob):
            made += re.escape(glob[at + 1])
            at += 2
        else:
            made += ".*" if glob[at] == "*" else re.escape(glob[at])
            at += 1
    return made


def _class_body(text: str) -> str:
    """What may stand between Python's brackets: only a dash and Go's escapes mean anything."""
    return re.sub(r"\\?(.)", lambda one: one[1] if one[0] == "-" else re.escape(one[1]), text)
