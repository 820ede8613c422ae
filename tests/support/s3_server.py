"""A real object store that speaks S3 (SeaweedFS) on loopback, with two identities."""

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.registry import Certificate, issue_certificate, make_certificate
from tests.support.wait import wait_for

WRITER, READER = ("AKWRITER", "secret of the writer"), ("AKREADER", "secret of the reader")
_WEED = Path(sys.prefix) / "bin" / "weed"
_IDENTITIES = {
    "identities": [
        {
            "name": name,
            "credentials": [{"accessKey": key, "secretKey": secret}],
            "actions": actions,
        }
        for name, (key, secret), actions in [
            ("writer", WRITER, ["Admin", "Read", "Write", "List", "Tagging"]),
            ("reader", READER, ["Read", "List"]),
        ]
    ]
}
_PARTS = ("master", "volume", "filer", "s3")


@dataclass(slots=True, kw_only=True)
class S3Server:
    """A running store; `kill` and `start` keep its folder and its ports.

    within  words before the command: of a network namespace, in which host is then
    """

    folder: Path
    ports: dict[str, int]
    host: str = "127.0.0.1"
    within: Sequence[str] = ()
    tls: Certificate | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.ports["s3"]

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def secure_endpoint(self) -> str:
        """Where it was started with a certificate."""
        return f"https://{self.host}:{self.ports['https']}"

    def environment(self, identity: tuple[str, str] = WRITER) -> dict[str, str]:
        """What a client of it needs, as AWS's own tools read it."""
        key, secret = identity
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def use(self, patch: pytest.MonkeyPatch, identity: tuple[str, str] = WRITER) -> None:
        """Have this process' object stores mean this server."""
        for name, value in self.environment(identity).items():
            patch.setenv(name, value)

    def make_bucket(self, name: str) -> None:
        """One that has been written to: its first object takes the server a second."""
        self._ask("filer", "POST", f"/buckets/{name}/")
        self._ask("filer", "PUT", f"/buckets/{name}/first", bytes(4096))
        self._ask("filer", "DELETE", f"/buckets/{name}/first")

    def start(self) -> None:
        """Its volumes come when there is a master to lead them: else they ask again 5 s later."""
        command = ["server", f"-dir={self.folder}", f"-ip={self.host}", f"-ip.bind={self.host}",
                   "-volume=false", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
                   "-master.electionTimeout=200ms", "-filer", "-s3",
                   "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
                   "-s3.autoCreateBucket=false",
                   f"-s3.config={self.folder / 'identities.json'}",
                   *(f"-{name}={port}" for name, port in self._port_options())]  # fmt: skip
        if self.tls is not None:
            command += [f"-s3.port.https={self.ports['https']}", f"-s3.cert.file={self.tls.cert}",
                        f"-s3.key.file={self.tls.key}"]  # fmt: skip
        self._run(command)
        wait_for(self._has_leader, within_s=60)
        master = f"{self.host}:{self.ports['master']}.{self.ports['master grpc']}"
        self._run(["volume", f"-dir={self.folder}", f"-ip={self.host}", f"-ip.bind={self.host}",
                   "-max=200", f"-master={master}", f"-port={self.ports['volume']}",
                   f"-port.grpc={self.ports['volume grpc']}"])  # fmt: skip
        wait_for(self._is_up, within_s=60)

    def kill(self) -> None:
        killed, self.processes = self.processes, []
        for process in killed:
            process.kill()
        for process in killed:
            process.wait(10)

    def hang(self) -> None:
        self._tell(signal.SIGSTOP)

    def wake(self) -> None:
        self._tell(signal.SIGCONT)

    def _run(self, words: Sequence[str]) -> None:
        with (self.folder / "log").open("ab") as log:
            command = [*self.within, str(_WEED), *words]
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _tell(self, number: signal.Signals) -> None:
        for process in self.processes:
            process.send_signal(number)

    def _port_options(self) -> Iterator[tuple[str, int]]:
        for part in ("master", "filer", "s3"):
            yield f"{part}.port", self.ports[part]
            yield f"{part}.port.grpc", self.ports[f"{part} grpc"]

    def _has_leader(self) -> bool:
        return self._says(
            lambda: "IsLeader" in json.loads(self._ask("master", "GET", "/cluster/status"))
        )

    def _is_up(self) -> bool:
        """Once a volume can be written: its S3 answers some seconds before that."""
        assigned = "/dir/assign?writableVolumeCount=1"
        return self._says(
            lambda: (
                not self._ask("s3", "GET", "/healthz")
                and "fid" in json.loads(self._ask("master", "GET", assigned))
            )
        )

    def _says(self, probe: Callable[[], bool]) -> bool:
        """What probe says; False while it gets no answer."""
        for process in self.processes:
            assert process.poll() is None, (self.folder / "log").read_text()[-2000:]
        try:
            return probe()
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def _ask(self, part: str, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(self.host, self.ports[part], timeout=10)
        try:
            connection.request(method, path, body)
            return connection.getresponse().read()
        finally:
            connection.close()


@contextmanager
def run_s3_server(
    folder: Path,
    *,
    tls: Certificate | None = None,
    host: str = "127.0.0.1",
    within: Sequence[str] = (),
) -> Iterator[S3Server]:
    """An empty store; it ends by SIGKILL, since it takes its time over SIGTERM."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "identities.json").write_text(json.dumps(_IDENTITIES))
    server = S3Server(folder=folder, ports=_free_ports(), host=host, within=within, tls=tls)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _free_ports() -> dict[str, int]:
    names = [f"{part}{kind}" for part in _PARTS for kind in ("", " grpc")] + ["https"]
    return {name: free_port() for name in names}


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with an empty bucket `shared`; the tests share it, each with a prefix."""
    with run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket("shared")
        yield server


@pytest.fixture(scope="session")
def secure_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, Path]]:
    """One with a certificate and an empty bucket `secure`, and the CA that signed it."""
    home = tmp_path_factory.mktemp("secure-s3")
    ca = make_certificate(home)
    with run_s3_server(home / "s3", tls=issue_certificate(home, ca)) as server:
        server.make_bucket("secure")
        yield server, ca.cert
