"""The kubelet's credential-provider plugins as a source: ECR's, GCR's and ACR's work unchanged.

All plugins that are for an image are asked, once each however many want to know; where two
answer for one place, the earlier one of the file holds. Answers are remembered in memory, for
as long as the plugin says, for the image, its registry or everything.

Not here: one run of a plugin (`plugin`); the file (`provider_config`).
Source: Kubernetes, "Configure a kubelet image credential provider";
pkg/credentialprovider/plugin/plugin.go.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from clipfs.image.credentials import Credentials, RegistryConfig
from clipfs.log import log
from csi.asker import PATIENT, Asker
from csi.credentials.accounts import ServiceAccounts, account_key
from csi.credentials.matching import is_glob, matches
from csi.credentials.plugin import TIME_S, Auth, PluginAnswer, Request, run_plugin
from csi.credentials.provider_config import ProviderConfig, TokenAttributes
from csi.credentials.sources import Found, SourceFailed
from csi.joined import Joined
from csi.pod import Pod
from csi.volume import Volume

_GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class _Remembered:
    answer: PluginAnswer
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Question:
    """A request, and what an answer to it is remembered for, beside the image."""

    request: Request
    account: str


class Providers:
    """All plugins of a node."""

    name = "credential providers"

    def __init__(
        self,
        configs: Sequence[ProviderConfig],
        folder: Path,
        *,
        accounts: ServiceAccounts | None = None,
        now: Callable[[], float] = time.time,
        time_s: float = TIME_S,
    ) -> None:
        """accounts  for plugins that want annotations; None: there is no cluster to ask"""
        self._plugins = [_Plugin(one, folder, accounts, now, time_s) for one in configs]

    def credentials(
        self, volume: Volume, *, anew: bool = False, asker: Asker = PATIENT
    ) -> Found | None:
        """Raises  SourceFailed if nobody has any, but one that should have does not answer"""
        image = f"{volume.image.registry}/{volume.image.repository}"
        auth: dict[str, Auth] = {}
        failed: list[str] = []
        for plugin in self._plugins:
            try:
                said = plugin.answer(image, volume, anew=anew, asker=asker)
            except SourceFailed as error:
                failed.append(str(error))
                log.warning("credential provider failed", image=image, error=str(error))
                continue
            if said is not None:
                auth = {**said.auth, **auth}
        config = config_for(image, auth)
        if failed and config.for_repository(*image.split("/", 1)) is None:
            raise SourceFailed("; ".join(failed))
        if not auth:
            return None
        return Found(config=config, can_be_asked_again=True)


class _Plugin:
    """One plugin, and what it answered."""

    def __init__(
        self,
        config: ProviderConfig,
        folder: Path,
        accounts: ServiceAccounts | None,
        now: Callable[[], float],
        time_s: float,
    ) -> None:
        self._config = config
        self._folder = folder
        self._accounts = accounts
        self._now = now
        self._time_s = time_s
        self._guard = threading.Lock()
        self._remembered: dict[tuple[str, str], _Remembered] = {}
        self._joined = Joined[PluginAnswer]()

    def answer(
        self, image: str, volume: Volume, *, anew: bool, asker: Asker
    ) -> PluginAnswer | None:
        """None if it is not for such an image, or such a pod."""
        if not any(matches(pattern, image) for pattern in self._config.match_images):
            return None
        question = self._question(image, volume, asker)
        if question is None:
            return None
        known = None if anew else self._known(image, question.account)
        return known or self._asked_once(question, asker)

    def _question(self, image: str, volume: Volume, asker: Asker) -> _Question | None:
        wants = self._config.token_attributes
        if wants is None:
            return _Question(Request(image=image), "")
        if volume.pod is None or not volume.pod.service_account:
            return None if wants.require_service_account else _Question(Request(image=image), "")
        annotations = self._annotations(wants, volume.pod, asker)
        if annotations is None:
            return None
        token = self._token(wants, volume)
        return _Question(
            Request(image=image, token=token, annotations=annotations),
            account_key(wants, volume.pod, token, annotations),
        )

    def _token(self, wants: TokenAttributes, volume: Volume) -> str:
        audience = wants.service_account_token_audience
        token = volume.tokens.get(audience)
        if token is None:
            raise SourceFailed(
                f"credential provider {self._config.name} wants a token for {audience[:100]}: add "
                "that audience to tokenRequests of the CSIDriver and start the driver with "
                "--token-requests"
            )
        if token.expires_at <= self._now():
            raise SourceFailed(
                f"credential provider {self._config.name}: the pod's token for {audience[:100]} "
                "has expired; the kubelet sends another one with the next pod"
            )
        return token.text

    def _annotations(
        self, wants: TokenAttributes, pod: Pod, asker: Asker
    ) -> Mapping[str, str] | None:
        """Those that the plugin is given; None if the account lacks one that it must have."""
        required = wants.required_service_account_annotation_keys
        keys = (*required, *wants.optional_service_account_annotation_keys)
        if not keys:
            return {}
        if self._accounts is None:
            raise SourceFailed(
                f"credential provider {self._config.name} wants annotations of service accounts, "
                "and the driver has no cluster to ask; give it --kubeconfig"
            )
        asker.waits_for(f"asking the API server for the service account of pod {pod}")
        found = self._accounts.service_account_annotations(pod)
        if any(key not in found for key in required):
            return None
        return {key: found[key] for key in keys if key in found}

    def _known(self, image: str, account: str) -> PluginAnswer | None:
        with self._guard:
            for base in (image, _registry(image), _GLOBAL):
                found = self._remembered.get((base, account))
                if found is not None and found.expires_at > self._now():
                    return found.answer
        return None

    def _asked_once(self, question: _Question, asker: Asker) -> PluginAnswer:
        """The plugin's answer; who asks the same meanwhile gets it too."""
        token = hashlib.sha256(question.request.token.encode()).hexdigest()
        key = (question.request.image, question.account, token)
        asker.waits_for(f"asking the credential provider {self._config.name}")
        return self._joined.call(key, lambda: self._asked(question, asker), asker)

    def _asked(self, question: _Question, asker: Asker) -> PluginAnswer:
        begin = self._now()
        answer = run_plugin(
            self._config, self._folder, question.request, time_s=self._time_s, asker=asker
        )
        if answer.cache_s == 0:
            return answer
        image = question.request.image
        bases = {"Image": image, "Registry": _registry(image), "Global": _GLOBAL}
        with self._guard:
            live = {k: one for k, one in self._remembered.items() if one.expires_at > begin}
            made = _Remembered(answer, begin + answer.cache_s)
            self._remembered = {**live, (bases[answer.cache_key_type], question.account): made}
        return answer


def config_for(image: str, auth: Mapping[str, Auth]) -> RegistryConfig:
    """Of an answer what a registry client can use: the places that it names, and image itself.

    Of the places that stand for image, the last one by name holds, as the kubelet has it.
    """
    named = {place: one for place, one in auth.items() if not is_glob(place)}
    data = msgspec.json.encode({"auths": named})
    config = RegistryConfig.from_json(data, source="of a credential provider")
    for place in sorted(auth, reverse=True):
        bare = place.split("://", 1)[-1]
        if matches(bare, image) and auth[place].username:
            one = auth[place]
            mine = Credentials(username=one.username, password=one.password)
            return config.merged(RegistryConfig({image: mine}))
    return config


def _registry(image: str) -> str:
    return image.partition("/")[0]
