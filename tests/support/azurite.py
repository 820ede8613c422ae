"""Azure's own emulator of Blob Storage (npm's azurite) on loopback, where it is installed."""

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate

import pytest

from tests.support.ports import free_port
from tests.support.wait import wait_for

PROGRAM = shutil.which("azurite-blob")
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The one that the emulator's documentation gives to everybody."""

_VERSION = "2021-08-06"


@dataclass(frozen=True, slots=True)
class Azurite:
    endpoint: str

    def use(self, patch: pytest.MonkeyPatch) -> None:
        """Have this process' object stores mean this server."""
        patch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        patch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        patch.setenv("AZURE_STORAGE_ENDPOINT", self.endpoint)

    def make_container(self, name: str) -> None:
        date = formatdate(usegmt=True)
        signed = (
            "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{_VERSION}\n"
            f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        )
        mac = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
        headers = {
            "x-ms-date": date,
            "x-ms-version": _VERSION,
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(mac).decode()}",
        }
        url = f"{self.endpoint}/{name}?restype=container"
        with urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)):
            return


@contextmanager
def run_azurite() -> Iterator[Azurite]:
    """An empty store, in memory; it ends with the block."""
    port = free_port()
    command = [str(PROGRAM), "--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort",
               str(port), "--skipApiVersionCheck", "--silent", "--disableTelemetry"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            wait_for(lambda: _listens(port), within_s=60)
            yield Azurite(f"http://127.0.0.1:{port}/{ACCOUNT}")
        finally:
            server.kill()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """Azure's emulator with an empty container `shared`; skips where there is none."""
    if PROGRAM is None:
        pytest.skip("azurite-blob is not installed: npm install -g azurite")
    with run_azurite() as server:
        server.make_container("shared")
        yield server
