"""One run of a credential provider's program: a request on its stdin, an answer on its stdout.

The program has the driver's environment, as the kubelet's has the kubelet's: proxies, the cloud's
region, role and token file. Only what is itself a secret is left out: such variables are for the
content cache's object store. Of what it says on stderr only the length is told.

Not here: how it is run (`program`) and when, and who remembers its answer (`providers`).
Source: Kubernetes, "Kubelet CredentialProvider (v1)"; pkg/credentialprovider/plugin/plugin.go.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from clipfs.image.credentials import MAX_CONFIG_BYTES
from clipfs.log import log
from csi.asker import PATIENT, Asker
from csi.credentials.program import NotWanted, SaidTooMuch, TookTooLong, run
from csi.credentials.provider_config import ProviderConfig, seconds_of
from csi.credentials.sources import SourceFailed
from csi.errors import CallerGone

TIME_S = 60
"""The kubelet's own bound."""

MAX_ANSWER_BYTES = MAX_CONFIG_BYTES
"""The kubelet has no bound; what is handed on of an answer must fit there."""

_SECRET_NAME = re.compile(r"(?i)(KEY|SECRET|TOKEN|PASSWORD|CONNECTION_STRING)(_ID|_BASE64)?$")
"""Of a variable; AWS_SECRET_ACCESS_KEY is one, AWS_WEB_IDENTITY_TOKEN_FILE is not."""

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
        ended = run(
            [folder / config.name, *config.args],
            _encoded(config, request),
            environment=_environment(config),
            time_s=time_s,
            max_bytes=MAX_ANSWER_BYTES,
            is_wanted=asker.is_wanted,
        )
    except (OSError, ValueError) as error:
        raise SourceFailed(f"{shown} cannot be run: {type(error).__name__}") from error
    except TookTooLong:
        raise SourceFailed(f"{shown} gave no answer in {time_s:g} s") from None
    except SaidTooMuch:
        raise SourceFailed(f"{shown} answered more than {MAX_ANSWER_BYTES} bytes") from None
    except NotWanted:
        raise CallerGone("nobody wants a credential provider's answer any more") from None
    if ended.stderr_bytes:
        log.info(
            "credential provider said something on stderr, which is not kept",
            provider=config.name,
            status=ended.status,
            stderr_bytes=ended.stderr_bytes,
        )
    if ended.status:
        raise SourceFailed(
            f"{shown} ended with status {ended.status}; run it by hand on the node to see why"
        )
    answer = _read(config, ended.answer)
    if answer is None:
        raise SourceFailed(f"{shown} answered no CredentialProviderResponse of its apiVersion")
    return answer


def _environment(config: ProviderConfig) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not _SECRET_NAME.search(name)}
    return {**ours, **{one.name: one.value for one in config.env}}


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


def _read(config: ProviderConfig, out: bytes) -> PluginAnswer | None:
    """None for what is no answer; why not might quote a secret."""
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
