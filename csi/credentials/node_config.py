"""The node's own docker config, `--registry-config`: the last source.

It is read anew each time, so that who renews the file, as cloud tools do, needs no restart.
"""

from dataclasses import dataclass
from pathlib import Path

from clipfs.image.credentials import load_registry_config
from csi.asker import PATIENT, Asker
from csi.credentials.sources import Found
from csi.volume import Volume


@dataclass(frozen=True, slots=True)
class NodeConfig:
    path: Path
    name: str = "the node's docker config"

    def credentials(
        self, volume: Volume, *, anew: bool = False, asker: Asker = PATIENT
    ) -> Found | None:
        return Found(config=load_registry_config(self.path), can_be_asked_again=True)
