"""Versions made by hand in any registry, a registry that fails when told to, and a clock without waiting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

from berth.adapters.registries.contract import Capabilities, Page, Registry, Stat
from berth.oci.descriptor import Descriptor

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def pieces(data: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def push_blob(registry: Registry, repository: str, data: bytes) -> str:
    await registry.push_blob(repository, sha256(data), size=len(data), chunks=pieces(data))
    return sha256(data)


async def push_image(
    registry: Registry, repository: str, tag: str | None, *, layers: list[bytes], salt: str = "", **extra: Any
) -> str:
    """An image with these layers; its digest."""
    config = json.dumps({"salt": salt or repository + str(tag)}).encode()
    for blob in (config, *layers):
        await push_blob(registry, repository, blob)
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": sha256(config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": sha256(d), "size": len(d)} for d in layers],
            **extra,
        }
    ).encode()
    return await registry.push_manifest(repository, tag or sha256(body), media_type=MANIFEST, body=body)


async def push_version(registry: Registry, repository: str, tag: str, *, size: int = 1000, layers: int = 3) -> str:
    """An index of two images, with a referrer and a `.sig` tag on it; its digest."""
    children = []
    for number in range(2):
        content = [bytes([number, layer]) + f"{repository}:{tag}".encode() * size for layer in range(layers)]
        digest = await push_image(registry, repository, None, layers=content, salt=f"{tag} {number}")
        stat = await registry.stat(repository, digest)
        assert stat is not None
        children.append({"mediaType": MANIFEST, "digest": digest, "size": stat.size})
    body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()
    root = await registry.push_manifest(repository, tag, media_type=INDEX, body=body)
    subject = {"mediaType": INDEX, "digest": root, "size": len(body)}
    await push_image(
        registry, repository, None, layers=[b"sbom of " + tag.encode()], subject=subject, artifactType="text/spdx"
    )
    await push_image(registry, repository, root.replace(":", "-") + ".sig", layers=[b"signature of " + tag.encode()])
    return root


async def content(registry: Registry, repository: str, tag: str) -> dict[str, bytes]:
    """Every byte below a tag, evidence included, by digest: what two places must agree on."""
    found: dict[str, bytes] = {}
    root = await registry.stat(repository, tag)
    assert root is not None, f"{repository}:{tag} is not there"
    waiting = [root.digest]
    while waiting:
        digest = waiting.pop()
        if digest in found:
            continue
        body = await registry.manifest(repository, digest)
        found[digest] = body
        document = json.loads(body)
        waiting += [child["digest"] for child in document.get("manifests", [])]
        waiting += [entry.digest for entry in await registry.referrers(repository, digest)]
        signature = await registry.stat(repository, digest.replace(":", "-") + ".sig")
        if signature is not None:
            waiting.append(signature.digest)
        for blob in ([document["config"]] if "config" in document else []) + document.get("layers", []):
            data = b"".join([piece async for piece in registry.blob(repository, blob["digest"])])
            assert sha256(data) == blob["digest"]
            found[blob["digest"]] = data
    return found


class Faulty:
    """A registry that counts what is asked of it, and fails as told.

    Args:
        fails: called before each operation with its number (from 1) and name; what it returns is raised.
        lies: changes bytes that are read.
    """

    def __init__(
        self,
        inner: Registry,
        *,
        fails: Callable[[int, str], Exception | None] = lambda _, __: None,
        lies: Callable[[bytes], bytes] | None = None,
        capabilities: Capabilities | None = None,
    ) -> None:
        self.inner = inner
        self.fails = fails
        self.lies = lies
        self.calls: list[str] = []
        self.pushed: list[str] = []
        self.blobs: list[str] = []
        self.read: list[str] = []
        self.bytes_pushed = 0
        self._capabilities = capabilities

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities or self.inner.capabilities

    def _ask(self, name: str) -> None:
        self.calls.append(name)
        error = self.fails(len(self.calls), name)
        if error is not None:
            raise error

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        self._ask("repositories")
        return await self.inner.repositories(after=after, limit=limit)

    async def tags(self, repository: str, *, after: str | None = None, limit: int = 100) -> Page[str]:
        self._ask("tags")
        return await self.inner.tags(repository, after=after, limit=limit)

    async def stat(self, repository: str, reference: str) -> Stat | None:
        self._ask("stat")
        return await self.inner.stat(repository, reference)

    async def manifest(self, repository: str, digest: str) -> bytes:
        self._ask("manifest")
        body = await self.inner.manifest(repository, digest)
        return self.lies(body) if self.lies else body

    async def blob_size(self, repository: str, digest: str) -> int | None:
        self._ask("blob_size")
        return await self.inner.blob_size(repository, digest)

    async def blob(self, repository: str, digest: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        self._ask("blob")
        self.read.append(digest)
        async for piece in self.inner.blob(repository, digest, offset=offset):
            yield self.lies(piece) if self.lies else piece

    async def mount_blob(self, repository: str, digest: str, *, source: str) -> bool:
        self._ask("mount_blob")
        return await self.inner.mount_blob(repository, digest, source=source)

    async def push_blob(self, repository: str, digest: str, *, size: int, chunks: AsyncIterable[bytes]) -> None:
        self._ask("push_blob")

        async def counted() -> AsyncIterator[bytes]:
            async for piece in chunks:
                self._ask("chunk")
                self.bytes_pushed += len(piece)
                yield piece

        await self.inner.push_blob(repository, digest, size=size, chunks=counted())
        self.blobs.append(digest)

    async def push_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
        self._ask("push_manifest")
        self.pushed.append(reference)
        return await self.inner.push_manifest(repository, reference, media_type=media_type, body=body)

    async def delete_tag(self, repository: str, tag: str) -> bool:
        self._ask("delete_tag")
        return await self.inner.delete_tag(repository, tag)

    async def delete_manifest(self, repository: str, digest: str) -> bool:
        self._ask("delete_manifest")
        return await self.inner.delete_manifest(repository, digest)

    async def referrers(self, repository: str, digest: str, *, artifact_type: str | None = None) -> list[Descriptor]:
        self._ask("referrers")
        return await self.inner.referrers(repository, digest, artifact_type=artifact_type)

    async def close(self) -> None:
        """The inner one belongs to the test."""


class Naps:
    """Sleeping that takes no time and is remembered."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
