"""The kubelet's CredentialProviderConfig, so that a node's file or folder works here unchanged.

Of a folder all files count that end in .json, .yaml or .yml, in the order of their names. Read
once, at the driver's start, and as strictly as the kubelet does: a field that is not known might
have been the one that keeps a token from a plugin.

Not here: running the plugins (`plugin`); whom they answer (`providers`).
Source: Kubernetes, "Kubelet Configuration (v1)"; pkg/credentialprovider/plugin/config.go.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from clipfs import errors
from csi.credentials.matching import is_pattern

MAX_FILE_BYTES = 1 << 20
SUFFIXES = (".json", ".yaml", ".yml")
ApiVersion = Literal[
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
]
TOKENS_SINCE: ApiVersion = "credentialprovider.kubelet.k8s.io/v1"
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)"


class _Strict(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    pass


class EnvVar(_Strict, frozen=True):
    name: str
    value: str


class TokenAttributes(_Strict, frozen=True):
    """A plugin that is given the pod's service-account token, and annotations of that account.

    cache_type  what of the account an answer is remembered for
    """

    service_account_token_audience: str
    require_service_account: bool
    cache_type: Literal["ServiceAccount", "Token"]
    required_service_account_annotation_keys: tuple[str, ...] = ()
    optional_service_account_annotation_keys: tuple[str, ...] = ()


class ProviderConfig(_Strict, frozen=True):
    """One plugin. Its arguments and environment may be secret: this has no field in its repr."""

    name: str
    match_images: tuple[str, ...]
    default_cache_duration: str
    api_version: ApiVersion
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    token_attributes: TokenAttributes | None = None

    def __repr__(self) -> str:
        return f"ProviderConfig({self.name!r})"

    @property
    def default_cache_s(self) -> float:
        return seconds_of(self.default_cache_duration)


class _Config(_Strict, frozen=True):
    api_version: Literal[
        "kubelet.config.k8s.io/v1",
        "kubelet.config.k8s.io/v1beta1",
        "kubelet.config.k8s.io/v1alpha1",
    ]
    kind: Literal["CredentialProviderConfig"]
    providers: tuple[ProviderConfig, ...]


def load_providers(path: Path, folder: Path) -> tuple[ProviderConfig, ...]:
    """The plugins of the file, or of the folder of files, at path, each an executable in folder.

    Raises  InvalidInput, which names the file, the provider and what is wrong
    """
    found = _read(path)
    for one in found:
        program = folder / one.name
        if not (program.is_file() and os.access(program, os.X_OK)):
            raise errors.InvalidInput(
                f"credential provider {one.name} of {path}: {program} is no executable; see "
                "--image-credential-provider-bin-dir"
            )
    return found


def seconds_of(duration: str) -> float:
    """Go's `1h30m`; ValueError if it is none, or below 0."""
    if duration == "0":
        return 0
    if not re.fullmatch(f"(?:{_PART})+", duration):
        raise ValueError(f"{duration[:40]!r} is no duration, such as 12h or 1h30m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(_PART, duration))


def _read(path: Path) -> tuple[ProviderConfig, ...]:
    found = tuple(one for file in _files(path) for one in _read_file(file))
    try:
        _check_all(found)
    except ValueError as error:
        raise errors.InvalidInput(f"credential providers {path}: {error}") from error
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        inside = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES)
    except OSError as error:
        raise errors.InvalidInput(f"credential providers {path}: {error.strerror}") from error
    if not (files := [one for one in inside if not one.is_dir()]):
        raise errors.InvalidInput(
            f"credential providers {path}: no file there ends in {', '.join(SUFFIXES)}"
        )
    return files


def _read_file(path: Path) -> tuple[ProviderConfig, ...]:
    import yaml  # here: only few drivers have such a file

    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"it is over {MAX_FILE_BYTES} bytes")
        found = msgspec.convert(yaml.safe_load(data), type=_Config).providers
        for one in found:
            _check(one)
        return found
    except OSError as error:
        raise errors.InvalidInput(f"credential providers {path}: {error.strerror}") from error
    except yaml.YAMLError:  # its words quote the file, which may hold a secret
        raise errors.InvalidInput(
            f"credential providers {path}: it is neither YAML nor JSON"
        ) from (None)
    except (ValueError, RecursionError) as error:
        raise errors.InvalidInput(f"credential providers {path}: {error}") from error


def _check_all(found: Sequence[ProviderConfig]) -> None:
    """ValueError for what the kubelet refuses of all files together."""
    names = [one.name for one in found]
    if not names:
        raise ValueError("providers is empty")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two providers are called {name[:60]!r}")


def _check(one: ProviderConfig) -> None:
    """ValueError for what the kubelet refuses of one."""
    shown = f"provider {one.name[:60]!r}"
    if one.name in ("", ".", "..") or "/" in one.name or " " in one.name:
        raise ValueError(f"{shown}: a name is a file's, without a path and spaces")
    if not one.match_images:
        raise ValueError(f"{shown}: matchImages is empty")
    for pattern in one.match_images:
        if not is_pattern(pattern):
            raise ValueError(f"{shown}: matchImages: {pattern[:100]!r} is no host[:port][/path]")
    seconds_of(one.default_cache_duration)
    tokens = one.token_attributes
    if tokens is None:
        return
    required = set(tokens.required_service_account_annotation_keys)
    if one.api_version != TOKENS_SINCE:
        raise ValueError(f"{shown}: tokenAttributes need apiVersion {TOKENS_SINCE}")
    if not tokens.service_account_token_audience:
        raise ValueError(f"{shown}: serviceAccountTokenAudience is empty")
    if required and not tokens.require_service_account:
        raise ValueError(f"{shown}: required annotations need requireServiceAccount")
    if required & set(tokens.optional_service_account_annotation_keys):
        raise ValueError(f"{shown}: an annotation is either required or optional")
