"""A built version, a real registry for its bytes and a scripted REST API: the SDK's two sides without a service."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from berth.authoring import build as builder
from berth.authoring.repository import LocalRepository
from berth.client import Berth
from berth.oci.layout import Layout
from tests.unit.wire.registry_process import running_registry

MANIFEST = """\
xumi: 1
name: {name}
version: {version}
interface:
  inputs:
    - {{name: text, type: text}}
  outputs:
    - {{name: text, type: text}}
entry:
  command: [python3, server.py]
runtime:
  base: oci-layout:../base
checkpoints:
  - name: main
    files: ["**/*"]
"""
SMALL = b"small weights"
LARGE = bytes(range(256)) * 12_000  # 3 MB: more than is fetched ahead


@pytest.fixture(scope="session")
def registry_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(tmp_path_factory.mktemp("registry")) as url:
        yield url


@dataclass
class Api:
    """Answers REST requests from a table of "METHOD path" → body or (status, body); notes what was asked."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        found = self.answers.get(f"{request.method} {request.url.raw_path.decode().partition('?')[0]}")
        if callable(found):
            found = found(request)
        if isinstance(found, httpx.Response):
            return found
        if found is None:
            body = {"status": 404, "detail": "There is no such thing.", "code": "not_found", "hint": None}
            return httpx.Response(404, json=body)
        return httpx.Response(200, json=found)

    def body(self, number: int = -1) -> Any:
        return json.loads(self.asked[number].content)


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def berth(api: Api, registry_url: str) -> Iterator[Berth]:
    """The SDK, with its REST side scripted and its registry side on docker-registry."""
    with Berth(registry_url, "secret-token", transport=httpx.MockTransport(api)) as berth:
        yield berth


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., tuple[Path, str, str]]:
    """Builds acme/NAME:1.0.0 (code, two weight files) and returns XUMI_HOME, the reference and the digest."""

    def make(name: str, version: str = "1.0.0") -> tuple[Path, str, str]:
        _base(tmp_path / "base")
        project = tmp_path / f"project-{name}"
        (project / "weights" / "deep").mkdir(parents=True)
        (project / "xumi.yaml").write_text(MANIFEST.format(name=f"acme/{name}", version=version))
        (project / "server.py").write_text("print('hello')\n")
        (project / "weights" / "small.bin").write_bytes(SMALL)
        (project / "weights" / "deep" / "large.bin").write_bytes(LARGE)
        home = tmp_path / "home"
        result = builder.build(project, LocalRepository(home))
        return home, result.reference, result.digest

    return make


def _base(path: Path) -> None:
    """An OCI layout with one tiny image."""
    if path.exists():
        return
    layout = Layout(path).create()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        info = tarfile.TarInfo("etc/os-release")
        info.size = 8
        archive.addfile(info, io.BytesIO(b"ID=tiny\n"))
    layer = layout.write_blob(gzip.compress(raw.getvalue(), mtime=0))
    diff = "sha256:" + hashlib.sha256(raw.getvalue()).hexdigest()
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
    }
    stored = layout.write_blob(json.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": stored.digest,
            "size": stored.size,
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": layer.digest,
                "size": layer.size,
            }
        ],
    }
    kept = layout.write_blob(json.dumps(manifest).encode())
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": kept.digest,
                "size": kept.size,
                "platform": {"os": "linux", "architecture": "amd64"},
            }
        ],
    }
    (path / "index.json").write_text(json.dumps(index))
