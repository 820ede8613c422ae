"""A registry that misbehaves as a test says: refusals, wrong bytes, a blob that stops.

It serves one OCI layout's image under every repository name. `requests` says what it was
asked, so that a test can show that its fault was met.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<version>[^/]+)")
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class ScriptedRegistry:
    """What the registry does; a test may change it while it runs.

    digest      of the image's manifest, which has `size` bytes
    manifests   tag -> media type and body, instead of the layout's image
    wants       "user:password", without which every answer is a 401
    refuse      kind of document ("manifests", "blobs", "layers") -> HTTP status
    spoil       flip the last byte of every layer
    open_gate() let go on the layers that stop in the middle after close_gate()
    at_gate     set once a layer has stopped there
    """

    def __init__(self, layout: Path) -> None:
        self._blobs = layout / "blobs/sha256"
        index = json.loads((layout / "index.json").read_text())
        self.digest: str = index["manifests"][0]["digest"]
        self.size: int = index["manifests"][0]["size"]
        manifest = json.loads(self._blob(self.digest))
        self._layers = {layer["digest"] for layer in manifest["layers"]}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.refuse: dict[str, int] = {}
        self.spoil = False
        self.wants: str | None = None
        self.requests: list[str] = []
        self.address = ""
        self.at_gate = threading.Event()
        self._gate = threading.Event()
        self._gate.set()

    def close_gate(self) -> None:
        self._gate.clear()
        self.at_gate.clear()

    def open_gate(self) -> None:
        self._gate.set()

    def add_image(self, note: str) -> tuple[str, int]:
        """Digest and size of another image with the same layers; it differs by its note."""
        manifest = json.loads(self._blob(self.digest))
        body = json.dumps({**manifest, "annotations": {"note": note}}).encode()
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        self.manifests[digest] = (_MANIFEST, body)
        return digest, len(body)

    def add_blob(self, data: bytes, media_type: str) -> dict[str, object]:
        """The descriptor of data, which is served from now on."""
        name = hashlib.sha256(data).hexdigest()
        (self._blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    def add_foreign_image(self) -> None:
        """As the tag `1`: one whose layer is somewhere else."""
        layer_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        layer = {"mediaType": layer_type, "digest": "sha256:" + "1" * 64, "size": 9}
        config = self.add_blob(b"{}", "application/vnd.oci.image.config.v1+json")
        document = {"schemaVersion": 2, "config": config, "layers": [layer]}
        self.manifests["1"] = (_MANIFEST, json.dumps(document).encode())

    def add_index(self, tag: str, images: Mapping[str, tuple[str, int]]) -> None:
        """An index as tag: architecture -> digest and size of its image."""
        children = [
            {"mediaType": _MANIFEST, "digest": digest, "size": size,
             "platform": {"os": "linux", "architecture": architecture}}
            for architecture, (digest, size) in images.items()
        ]  # fmt: skip
        body = json.dumps({"schemaVersion": 2, "manifests": children}).encode()
        self.manifests[tag] = (_INDEX, body)

    def layer_reads(self) -> list[str]:
        """Layers that were asked for, beyond their first byte."""
        return [path for path in self.requests if path.rpartition("/")[2] in self._layers]

    def answer(self, path: str, authorization: str | None) -> tuple[int, str, bytes]:
        """Status, media type and body."""
        self.requests.append(path)
        if self.wants is not None:
            expected = "Basic " + base64.b64encode(self.wants.encode()).decode()
            if authorization != expected:
                return 401, "application/json", b"{}"
        match = _PATH.fullmatch(path)
        if match is None:
            return 404, "text/plain", b""
        kind, version = match["kind"], match["version"]
        for one in (kind, "layers" if version in self._layers else kind):
            if one in self.refuse:
                return self.refuse[one], "application/json", b"{}"
        if kind == "manifests" and version in self.manifests:
            return 200, *self.manifests[version]
        if kind == "manifests":
            return 200, _MANIFEST, self._blob(version if ":" in version else self.digest)
        body = self._blob(version)
        if self.spoil and version in self._layers:
            body = body[:-1] + bytes([body[-1] ^ 1])
        return 200, "application/octet-stream", body

    def stops_at(self, path: str, size: int) -> int:
        """After how many bytes of the answer to path the gate stands; size if it has none."""
        version = path.rpartition("/")[2]
        return size // 2 if version in self._layers and not self._gate.is_set() else size

    def wait_at_gate(self) -> None:
        self.at_gate.set()
        self._gate.wait()

    def _blob(self, digest: str) -> bytes:
        return (self._blobs / digest.partition(":")[2]).read_bytes()


@contextmanager
def run_scripted_registry(
    layout: Path, *, listen: str = "127.0.0.1:0"
) -> Iterator[ScriptedRegistry]:
    script = ScriptedRegistry(layout)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            probe = self.headers.get("Range") == "bytes=0-0"
            status, media_type, body = script.answer(self.path, self.headers.get("Authorization"))
            if status == 200 and probe:
                script.requests.pop()
                status, body = 206, body[:1]
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="scripted"')
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            if status == 200 and "/manifests/" in self.path:
                digest = hashlib.sha256(body).hexdigest()
                self.send_header("Docker-Content-Digest", f"sha256:{digest}")
            self.end_headers()
            if self.command == "HEAD":
                return
            stop = script.stops_at(self.path, len(body)) if status == 200 else len(body)
            try:
                self.wfile.write(body[:stop])
                if stop < len(body):
                    script.wait_at_gate()
                    self.wfile.write(body[stop:])
            except ConnectionError:  # whoever asked was killed
                self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    host, _, port = listen.partition(":")
    with ThreadingHTTPServer((host, int(port)), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        script.address = f"{host}:{server.server_port}"
        try:
            yield script
        finally:
            script.open_gate()
            server.shutdown()
            thread.join()
