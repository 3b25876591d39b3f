"""A base image from a registry: how references are read, and a build over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from berth.authoring.build import build
from berth.authoring.options import Options
from berth.authoring.registry_base import RegistrySource, open_registry
from berth.authoring.repository import LocalRepository
from berth.errors import BerthError
from berth.oci.layout import Layout

SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("reference", "host", "repository", "wanted"),
    [
        ("python", "registry-1.docker.io", "library/python", "latest"),
        ("python:3.11-slim", "registry-1.docker.io", "library/python", "3.11-slim"),
        ("docker.io/library/python:3.11", "registry-1.docker.io", "library/python", "3.11"),
        ("bitnami/python:3", "registry-1.docker.io", "bitnami/python", "3"),
        ("ghcr.io/a/b/c", "ghcr.io", "a/b/c", "latest"),
        ("localhost:5000/x:1", "localhost:5000", "x", "1"),
        (f"registry:5000/a/b@{SHA}", "registry:5000", "a/b", SHA),
        (f"ghcr.io/a/b:1@{SHA}", "ghcr.io", "a/b", SHA),
    ],
)
def test_a_reference_is_read_like_docker_does(reference: str, host: str, repository: str, wanted: str) -> None:
    source, found = open_registry(reference)
    assert isinstance(source, RegistrySource)
    assert (source._host, source._repository, found) == (host, repository, wanted)


@pytest.mark.parametrize("reference", ["UPPER/x", "a@sha256:1", "ghcr.io/", "a b"])
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(BerthError):
        open_registry(reference)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """Serves an OCI layout by the pull half of the distribution API."""
    servers = []

    def serve(layout: Path) -> str:
        content = Layout(layout)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _, _, kind, wanted = self.path.rsplit("/", 3) if self.path != "/v2/" else ("", "", "", "")
                digest = content.index()[0].digest if wanted == "1.0" else wanted
                if not kind or not content.has(digest):
                    self.send_error(404)
                    return
                data = content.path_of(digest).read_bytes()
                self.send_response(200)
                manifest = "application/vnd.oci.image.manifest.v1+json"
                self.send_header("Content-Type", manifest if kind == "manifests" else "application/octet-stream")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_base_from_a_registry_gives_the_layers_that_the_layout_gives(
    make_project: Callable[..., Path], repository: LocalRepository, registry: Callable[[Path], str], tmp_path: Path
) -> None:
    root = make_project()
    host = registry(root.parent / "base")
    other = LocalRepository(tmp_path / "other")
    remote = build(root, other, options=Options(base=f"{host}/team/base:1.0"), registry=open_registry)
    local = build(root, repository)
    assert [x.descriptor.digest for x in remote.layers] == [x.descriptor.digest for x in local.layers]
    for layer in Layout(root.parent / "base").index():
        assert layer.digest in other.manifest(remote_code(other, remote.digest)).decode()


def remote_code(repository: LocalRepository, digest: str) -> str:
    """Digest of the code image of a version."""
    from berth.oci import manifest as manifests

    return manifests.parse(repository.manifest(digest)).manifests[0].digest
