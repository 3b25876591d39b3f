"""A tiny OCI registry in a thread that serves our advisory database, so that real Trivy can pull it in tests.

Use: `from tests.support.advisories import advisory_registry` in a conftest, then the fixture of that name.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from demo.advisories import as_artifact, build
from demo.advisories.artifact import Artifact

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class AdvisoryRegistry:
    """Serves one artifact at `reference` on loopback; with `login`, only to that user."""

    def __init__(self, artifact: Artifact, *, login: tuple[str, str] | None = None) -> None:
        self.artifact = artifact
        self.requests: list[str] = []
        self._authorization = None
        if login is not None:
            self._authorization = "Basic " + base64.b64encode(":".join(login).encode()).decode()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def reference(self) -> str:
        """What goes into BERTH_TRIVY_DB_REPOSITORY."""
        return f"127.0.0.1:{self._server.server_port}/trivy-db:2"

    @property
    def downloads(self) -> int:
        """How often the manifest was fetched."""
        return sum(line.startswith("GET") and "/manifests/" in line for line in self.requests)

    def __enter__(self) -> AdvisoryRegistry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        kind, _, name = path.removeprefix("/v2/trivy-db/").partition("/")
        if path.rstrip("/") == "/v2":
            return 200, "application/json", b"{}"
        if kind == "manifests" and name in ("2", self.artifact.digest):
            return 200, _MANIFEST, self.artifact.manifest
        if kind == "blobs" and name in self.artifact.blobs:
            return 200, "application/octet-stream", self.artifact.blobs[name]
        return 404, "application/json", b'{"errors":[{"code":"NAME_UNKNOWN"}]}'

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.requests.append(f"{self.command} {self.path}")
                status, content_type, body = registry._answer(self.path)
                if registry._authorization not in (None, self.headers.get("Authorization")):
                    status, content_type, body = 401, "application/json", b"{}"
                self.send_response(status)
                if status == 401:
                    self.send_header("WWW-Authenticate", 'Basic realm="advisories"')
                if content_type == _MANIFEST:
                    self.send_header("Docker-Content-Digest", registry.artifact.digest)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                return

        return Handler


def advisory_artifact(folder: Path, *, updated_at: datetime | None = None) -> Artifact:
    """Our advisories, built into `folder`."""
    return as_artifact(build(folder, updated_at=updated_at))


@pytest.fixture(scope="session")
def advisory_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdvisoryRegistry]:
    """Our advisories in a registry that real Trivy can pull from; one per test process."""
    with AdvisoryRegistry(advisory_artifact(tmp_path_factory.mktemp("advisories"))) as registry:
        yield registry
