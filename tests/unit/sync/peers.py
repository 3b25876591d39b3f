"""A small registry over real HTTP whose answers a test can spoil, and what it was asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.unit.wire.peer import Answer, Asked

# What to answer instead; None = as a registry does.
Trouble = Callable[[Asked, int], Answer | None]
REPOSITORY = "lab/net"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Shelf:
    """Holds one repository. `trouble` is told each request with its number, from 1."""

    trouble: Trouble = lambda _, __: None
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    count: int = 0
    # Digests of blobs that were sent here, whole, as often as they were.
    received: list[str] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Answer:
        self.count += 1
        spoiled = self.trouble(asked, self.count)
        return spoiled if spoiled is not None else self.answer(asked)

    def answer(self, asked: Asked) -> Answer:
        """As a registry does."""
        path = asked.path.removeprefix(f"/v2/{REPOSITORY}/")
        kind, _, name = path.partition("/")
        if kind == "blobs" and name.startswith("uploads"):
            return self._upload(asked)
        if kind == "blobs":
            return self._blob(asked, self.blobs.get(name))
        if kind == "manifests":
            return self._put(asked, name) if asked.method == "PUT" else self._manifest(name)
        return Answer(404)

    def _upload(self, asked: Asked) -> Answer:
        if asked.method == "POST":
            return Answer(202, headers={"Location": f"/v2/{REPOSITORY}/blobs/uploads/{self.count}"})
        if asked.method != "PUT":
            return Answer(204)
        digest = unquote(asked.query["digest"][0])
        if sha256(asked.body) != digest:
            return Answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
        self.blobs[digest] = asked.body
        self.received.append(digest)
        return Answer(201, headers={"Docker-Content-Digest": digest})

    def _blob(self, asked: Asked, held: bytes | None) -> Answer:
        if held is None:
            return Answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
        start = int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start == 0:
            return Answer(200, held)
        return Answer(206, held[start:], {"Content-Range": f"bytes {start}-{len(held) - 1}/{len(held)}"})

    def _put(self, asked: Asked, name: str) -> Answer:
        missing = [item["digest"] for item in _content(asked.body) if item["digest"] not in self.blobs]
        if missing:
            return Answer(400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}')
        digest = sha256(asked.body)
        self.manifests[digest] = asked.body
        if not name.startswith("sha256:"):
            self.tags[name] = digest
        return Answer(201, headers={"Docker-Content-Digest": digest})

    def _manifest(self, name: str) -> Answer:
        body = self.manifests.get(self.tags.get(name, name))
        if body is None:
            return Answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        kind = json.loads(body)["mediaType"]
        return Answer(200, body, {"Content-Type": kind, "Docker-Content-Digest": sha256(body)})

    def add_image(self, tag: str, layers: list[bytes]) -> str:
        """Puts an image there, past HTTP; its digest."""
        config = b'{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}'
        for data in (config, *layers):
            self.blobs[sha256(data)] = data
        body = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": _named("application/vnd.oci.image.config.v1+json", config),
                "layers": [_named("application/vnd.oci.image.layer.v1.tar", data) for data in layers],
            }
        ).encode()
        digest = sha256(body)
        self.manifests[digest] = body
        self.tags[tag] = digest
        return digest


def _named(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": sha256(data), "size": len(data)}


def _content(body: bytes) -> list[dict[str, str]]:
    manifest = json.loads(body)
    return [manifest["config"], *manifest["layers"]]
