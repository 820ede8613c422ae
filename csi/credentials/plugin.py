"""One run of a credential provider's program: a request on its stdin, an answer on its stdout.

The program has the driver's environment, as the kubelet's has the kubelet's: proxies, the cloud's
region, role and token file. Only what is itself a secret is left out: such variables are for the
content cache's object store. What it says on stderr goes to the log, without what may be one.

Not here: when it is run, and who remembers its answer (`providers`).
Source: Kubernetes, "Kubelet CredentialProvider (v1)"; pkg/credentialprovider/plugin/plugin.go.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from clipfs.log import log
from csi.asker import PATIENT, Asker
from csi.credentials.provider_config import ProviderConfig, seconds_of
from csi.credentials.sources import SourceFailed
from csi.errors import CallerGone

TIME_S = 60
"""The kubelet's own bound."""

LOOK_S = 0.5
"""Between two looks whether its answer is still wanted."""

REAP_S = 5
"""For the pipes of a killed program, which one that left its session may hold open."""

MAX_ANSWER_BYTES = 1 << 20
MAX_WORDS = 500
_SECRET_NAME = re.compile(r"(?i)(KEY|SECRET|TOKEN|PASSWORD|CONNECTION_STRING)(_ID|_BASE64)?$")
"""Of a variable; AWS_SECRET_ACCESS_KEY is one, AWS_WEB_IDENTITY_TOKEN_FILE is not."""

_SAID = re.compile(r"(?i)((?:pass\w*|secret\w*|token\w*|key|auth\w*|bearer|basic)\W{1,4})\S+")
_LONG = re.compile(r"[A-Za-z0-9+/=_.~-]{20,}")
"""Longer than most words and shorter than most keys."""
CacheKeyType = Literal["Image", "Registry", "Global"]


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return "Auth()"


class _Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    api_version: str
    kind: Literal["CredentialProviderResponse"]
    cache_key_type: CacheKeyType
    cache_duration: str | None = None
    auth: dict[str, Auth] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a plugin is asked for; without a token as all were before there were any."""

    image: str
    token: str = field(default="", repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginAnswer:
    """auth by place, which may be a glob; cache_s: 0 is not to be remembered."""

    auth: Mapping[str, Auth] = field(repr=False)
    cache_key_type: CacheKeyType
    cache_s: float


def run_plugin(
    config: ProviderConfig,
    folder: Path,
    request: Request,
    *,
    time_s: float = TIME_S,
    asker: Asker = PATIENT,
) -> PluginAnswer:
    """Raises  SourceFailed, which says which program and what became of it, never its words;
    CallerGone once asker wants no answer any more
    """
    shown = f"credential provider {config.name}"
    try:
        process = subprocess.Popen(
            [folder / config.name, *config.args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(config),
            start_new_session=True,  # so that its own children end with it
        )
    except (OSError, ValueError) as error:
        raise SourceFailed(f"{shown} cannot be run: {type(error).__name__}") from error
    try:
        out, said = _talked(process, _encoded(config, request), time_s, asker)
    except subprocess.TimeoutExpired:
        raise SourceFailed(f"{shown} gave no answer in {time_s:g} s") from None
    finally:
        _end(process)
    answer = _read(config, out) if process.returncode == 0 else None
    hidden = [one.password for one in answer.auth.values()] if answer else []
    hidden += [request.token, *_proxies(), *(one.value for one in config.env)]
    _tell(config.name, said, hidden)
    if process.returncode:
        raise SourceFailed(f"{shown} ended with status {process.returncode}; see the driver's log")
    if answer is None:
        raise SourceFailed(f"{shown} answered no CredentialProviderResponse of its apiVersion")
    return answer


def _environment(config: ProviderConfig) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not _SECRET_NAME.search(name)}
    return {**ours, **{one.name: one.value for one in config.env}}


def _talked(
    process: subprocess.Popen[bytes], words: bytes, time_s: float, asker: Asker
) -> tuple[bytes, bytes]:
    """What it says, once it has ended; TimeoutExpired, CallerGone."""
    ends_s = time.monotonic() + time_s
    rest: bytes | None = words
    while True:
        left_s = max(0, ends_s - time.monotonic())
        try:
            return process.communicate(rest, timeout=min(LOOK_S, left_s))
        except subprocess.TimeoutExpired:
            if left_s <= LOOK_S:
                raise
        if not asker.is_wanted():
            raise CallerGone("nobody wants a credential provider's answer any more")
        rest = None


def _encoded(config: ProviderConfig, request: Request) -> bytes:
    document: dict[str, object] = {
        "apiVersion": config.api_version,
        "kind": "CredentialProviderRequest",
        "image": request.image,
    }
    if request.token:
        document["serviceAccountToken"] = request.token
    if request.annotations:
        document["serviceAccountAnnotations"] = dict(request.annotations)
    return msgspec.json.encode(document)


def _proxies() -> list[str]:
    """What they are set to: an address may have a password in it."""
    return [value for name, value in os.environ.items() if name.lower().endswith("_proxy")]


def _read(config: ProviderConfig, out: bytes) -> PluginAnswer | None:
    """None for what is no answer; why not might quote a secret."""
    if len(out) > MAX_ANSWER_BYTES:
        return None
    try:
        said = msgspec.json.decode(out, type=_Answer)
        cache_s = (
            config.default_cache_s
            if said.cache_duration is None
            else seconds_of(said.cache_duration)
        )
    except (ValueError, RecursionError):
        return None
    if said.api_version != config.api_version:
        return None
    return PluginAnswer(auth=said.auth or {}, cache_key_type=said.cache_key_type, cache_s=cache_s)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what has not ended of the program and its children, and close their pipes."""
    if process.returncode is None:  # else its number may be another's by now
        os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=REAP_S)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _tell(name: str, said: bytes, hidden: Iterable[str]) -> None:
    """Log a program's words, without its secrets and without what looks like one."""
    text = said[: MAX_WORDS * 8].decode(errors="replace")
    for secret in sorted((one for one in hidden if one), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _LONG.sub("***", _SAID.sub(r"\1***", text))
    text = "".join(one if one.isprintable() else " " for one in text)[:MAX_WORDS].strip()
    if text:
        log.info("credential provider says", provider=name, said=text)
