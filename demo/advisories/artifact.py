"""How does the database get into a registry? As the OCI artifact that Trivy pulls, over plain HTTP calls."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.aquasec.trivy.config.v1+json"
_LAYER = "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Artifact:
    """The manifest and the blobs it names, by digest."""

    manifest: bytes
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        return _digest(self.manifest)


def as_artifact(folder: Path) -> Artifact:
    """What `database.build` wrote into `folder`, as Trivy expects it in a registry."""
    config, layer = b"{}", (folder / "db.tar.gz").read_bytes()
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": _CONFIG, "digest": _digest(config), "size": len(config)},
        "layers": [
            {
                "mediaType": _LAYER,
                "digest": _digest(layer),
                "size": len(layer),
                "annotations": {"org.opencontainers.image.title": "db.tar.gz"},
            }
        ],
    }
    return Artifact(json.dumps(manifest).encode(), {_digest(config): config, _digest(layer): layer})


def push(folder: Path, reference: str, *, username: str | None = None, password: str | None = None) -> str:
    """Push the database to `http[s]://host/repository:tag`; returns the manifest's digest.

    Raises:
        urllib.error.HTTPError: the registry refused.
    """
    base, repository, tag = _split(reference)
    artifact = as_artifact(folder)
    registry = _Registry(base, username, password)
    for digest, data in artifact.blobs.items():
        answer = registry.call("POST", f"/v2/{repository}/blobs/uploads/", b"")
        location = urllib.parse.urljoin(base + "/", answer.headers["Location"])
        joint = "&" if "?" in location else "?"
        registry.call("PUT", f"{location}{joint}{urllib.parse.urlencode({'digest': digest})}", data)
    registry.call("PUT", f"/v2/{repository}/manifests/{tag}", artifact.manifest, content_type=_MANIFEST)
    return artifact.digest


class _Registry:
    def __init__(self, base: str, username: str | None, password: str | None) -> None:
        self._base = base
        self._host = urllib.parse.urlsplit(base).netloc
        self._authorization: str | None = None
        if username is not None:
            self._authorization = "Basic " + base64.b64encode(f"{username}:{password or ''}".encode()).decode()

    def call(self, method: str, target: str, body: bytes, *, content_type: str = "application/octet-stream") -> Any:
        url = urllib.parse.urljoin(self._base + "/", target)
        request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": content_type})
        # An upload may be sent to another host; our password is not.
        if self._authorization is not None and urllib.parse.urlsplit(url).netloc == self._host:
            request.add_unredirected_header("Authorization", self._authorization)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            answer.read()
            return answer


def _split(reference: str) -> tuple[str, str, str]:
    parts = urllib.parse.urlsplit(reference)
    repository, colon, tag = parts.path.strip("/").rpartition(":")
    if parts.scheme not in ("http", "https") or not parts.netloc or not colon or not repository:
        raise ValueError(f"not of the form http://host/repository:tag: {reference}")
    return f"{parts.scheme}://{parts.netloc}", repository, tag


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
