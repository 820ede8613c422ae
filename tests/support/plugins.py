"""Credential-provider plugins as real programs, and the kubelet's file that names them."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from csi.credentials.accounts import ServiceAccounts
from csi.credentials.provider_config import load_providers
from csi.credentials.providers import Providers

V1 = "credentialprovider.kubelet.k8s.io/v1"

_PLUGIN = """\
#!{python}
import json, os, sys
asked = json.load(sys.stdin)
call = {{"asked": asked, "args": sys.argv[1:], "env": dict(os.environ)}}
with open({calls!r}, "a") as file:
    file.write(json.dumps(call) + "\\n")
calls = sum(1 for _ in open({calls!r}))
answer = {{"apiVersion": asked["apiVersion"], "kind": "CredentialProviderResponse",
          "cacheKeyType": "Image", "auth": {{}}}}
def auth(**passwords):
    return {{place: {{"username": "user", "password": one}} for place, one in passwords.items()}}
{body}
print(json.dumps(answer))
"""


class Plugins:
    """A folder of plugins. A body is Python that changes `answer`; `asked` is the request and
    `calls` its number."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "bin"
        self.folder.mkdir(parents=True)
        self.file = home / "config.yaml"
        self.providers: list[dict[str, Any]] = []

    def add(self, name: str, body: str, match: Sequence[str] = ("h.io",), **fields: Any) -> None:
        """fields as in the kubelet's file, over those that must be there."""
        self.add_program(
            name,
            _PLUGIN.format(python=sys.executable, calls=str(self._calls(name)), body=body),
            match,
            **fields,
        )

    def add_program(
        self, name: str, text: str, match: Sequence[str] = ("h.io",), **fields: Any
    ) -> None:
        program = self.folder / name
        program.write_text(text)
        program.chmod(0o755)
        self.providers.append(
            {"name": name, "matchImages": list(match), "defaultCacheDuration": "10m",
             "apiVersion": V1, **fields}
        )  # fmt: skip  # one document
        self.write({})

    def write(self, over: Mapping[str, Any]) -> None:
        document = {"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
                    "providers": self.providers}  # fmt: skip  # one document
        self.file.write_text(json.dumps({**document, **over}))

    def calls(self, name: str) -> list[dict[str, Any]]:
        """What the plugin has been asked so far, with its arguments and its environment."""
        path = self._calls(name)
        return [json.loads(one) for one in path.read_text().splitlines()] if path.exists() else []

    def opened(
        self,
        *,
        accounts: ServiceAccounts | None = None,
        now: Callable[[], float] = lambda: 1000.0,
        time_s: float = 60,
    ) -> Providers:
        configs = load_providers(self.file, self.folder)
        return Providers(configs, self.folder, accounts=accounts, now=now, time_s=time_s)

    def _calls(self, name: str) -> Path:
        return self.folder.parent / f"{name}.calls"
