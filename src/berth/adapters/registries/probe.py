"""What can this very registry do? Asked, not believed: versions and switches differ (docs/guides/registries.md).

Reading only, unless a repository is named: then small content is pushed there, looked at and removed. What an answer
leaves open keeps the default of the kind and is noted.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

from berth.adapters.registries.contract import Capabilities
from berth.adapters.registries.distribution import DistributionRegistry
from berth.errors import (
    BerthError,
    InvalidInput,
    NotFound,
    RemoteAuthError,
    RemoteError,
    TooLarge,
    Unavailable,
    Unsupported,
)
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor
from berth.wire import blobs, uploads
from berth.wire import manifests as wire_manifests
from berth.wire.sending import Upload

ABSENT = "berth/absent"
CHUNK = 64 * 1024
MANIFESTS = (4 * 2**20, 2**20, 256 * 1024)
_PROBE = "application/vnd.berth.probe.v1+json"


async def probe_registry(registry: DistributionRegistry, *, repository: str | None = None) -> Capabilities:
    """What it can do, by asking it. Raises what `Registry` raises when it cannot be used at all."""
    await registry.client.ping()
    found = replace(registry.capabilities, notes=())
    notes: list[str] = []
    known: list[str] = []
    if found.list_repositories:
        try:
            known = list((await registry.repositories(limit=10)).items)
        except (Unsupported, NotFound, RemoteAuthError, RemoteError, InvalidInput) as error:
            found = replace(found, list_repositories=False)
            notes.append(f"cannot list repositories: {error.message}")
    if repository is not None:
        found = await _by_writing(registry, repository, found, notes)
    elif known:
        found = await _by_reading(registry, known[0], found, notes)
    else:
        notes.append("no repository to look at: referrers and deletion are as expected of this kind, not tried")
    headers = await _rate_limits(registry, repository or (known[0] if known else None))
    if (said := registry.client.rate_limit) is not None:
        found = replace(found, rate_limit=said.limit, rate_window=said.window, rate_remaining=said.remaining)
    return replace(found, notes=(*dict.fromkeys(notes), *headers))


async def _by_reading(
    registry: DistributionRegistry, repository: str, found: Capabilities, notes: list[str]
) -> Capabilities:
    name = registry.names.outward(repository)
    client = registry.client
    zero = "sha256:" + "0" * 64
    async with client.exchange(
        "GET",
        client.url(name, "referrers", zero),
        expect=(200, 400, 401, 403, 404, 405),
        scopes=blobs.pull_scope(name),
    ) as answer:
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        # An unknown digest is an empty list; Quay answers 400. Without the API it is 404.
        if answer.status in (200, 400):
            found = replace(found, referrers=answer.status == 400 or kind == types.OCI_INDEX)
        elif answer.status in (404, 405):
            found = replace(found, referrers=False, oci_subject=False)
        else:
            notes.append("referrers: not allowed to ask")
    if type(registry).delete_tag is DistributionRegistry.delete_tag:
        tag, digest = f"berth-{secrets.token_hex(8)}", "sha256:" + secrets.token_hex(32)
        content = await _deletes(registry, name, digest, found.content_delete, notes)
        native = await _deletes(registry, name, tag, found.tag_delete, notes)
        if content and not native:
            notes.append("a tag is given other content, and that is deleted: it has no call to remove a tag")
        found = replace(found, tag_delete=native or content, content_delete=content)
    return found


async def _deletes(registry: DistributionRegistry, name: str, absent: str, default: bool, notes: list[str]) -> bool:
    """Whether DELETE exists: asked with a tag or digest that nothing has, which is 404 then."""
    try:
        await wire_manifests.delete(registry.client, name, absent)
    except RemoteAuthError:
        notes.append("deletion: not allowed to ask")
        return default
    except BerthError as error:
        if isinstance(error, Unavailable):
            raise
        return False
    return True


async def _by_writing(
    registry: DistributionRegistry, repository: str, found: Capabilities, notes: list[str]
) -> Capabilities:
    """Pushes a blob, a manifest and a referrer, looks what became of them, and removes them where that is possible."""
    name, client = registry.names.outward(repository), registry.client
    salt = secrets.token_hex(8)
    config = await _pushed(registry, repository, b"{}")
    layer = await _pushed(registry, repository, f"probe {salt}".encode())
    project, _, model = repository.partition("/")
    beside = f"{project}/{model}-mounted"
    try:
        found = replace(found, mount=await uploads.mount(client, registry.names.outward(beside), layer, source=name))
    except BerthError as error:
        found = replace(found, mount=False)
        notes.append(f"mount: {error.message}")
    body = manifests.image(
        config=Descriptor(_PROBE, config, 2),
        layers=[Descriptor(types.OCI_LAYER_TAR, layer, len(f"probe {salt}"))],
    )
    tag = f"berth-probe-{salt}"
    stored = await wire_manifests.put(client, name, tag, body, types.OCI_MANIFEST)
    subject = Descriptor(types.OCI_MANIFEST, stored.digest, len(body))
    referrer = manifests.image(
        config=Descriptor(types.OCI_EMPTY, config, 2),
        layers=[Descriptor(types.OCI_EMPTY, config, 2)],
        artifact_type=_PROBE,
        subject=subject,
    )
    filed = await wire_manifests.put(client, name, digests.of_bytes(referrer), referrer, types.OCI_MANIFEST)
    found = replace(found, oci_subject=filed.subject == stored.digest)
    found = replace(found, chunked_upload=await _takes_chunks(registry, name, notes))
    found = await _by_reading(registry, repository, found, notes)
    if found.content_delete:  # or large manifests would stay behind
        found = await _largest_manifest(registry, repository, config, found, notes)
    if found.referrers and not found.oci_subject:
        listed = {d.digest for d in await registry.referrers(repository, stored.digest)}
        found = replace(found, referrers=filed.digest in listed)
    if found.tag_delete:
        with suppress(RemoteAuthError):
            await registry.delete_tag(repository, tag)
            if await wire_manifests.head(client, name, stored.digest) is None:
                found = replace(found, tag_delete=False)
                notes.append("removing a tag removes its content")
    for digest in (filed.digest, stored.digest):
        try:
            await registry.delete_manifest(repository, digest)
        except BerthError as error:
            notes.append(f"left behind in {repository}: {digest} ({error.code})")
    return found


async def _takes_chunks(registry: DistributionRegistry, name: str, notes: list[str]) -> bool:
    """Two chunks of a blob; bytes are random, or it might be there already."""
    content = secrets.token_bytes(2 * CHUNK)
    digest = digests.of_bytes(content)

    async def opened(offset: int) -> AsyncIterator[bytes]:
        yield content[offset:]

    chunked = Upload(digest, len(content), opened, chunk_bytes=CHUNK, restartable=False)
    try:
        await uploads.put(registry.client, name, chunked)
        if await blobs.head(registry.client, name, digest) == len(content):
            return True
        notes.append("chunks: taken, and the blob is not there")
    except BerthError as error:
        notes.append(f"chunks: {error.message}")
    return False


async def _largest_manifest(
    registry: DistributionRegistry, repository: str, config: str, found: Capabilities, notes: list[str]
) -> Capabilities:
    """The specification asks for 4 MiB; what takes less is asked with less."""
    name = registry.names.outward(repository)
    for size in MANIFESTS:
        small = manifests.image(config=Descriptor(_PROBE, config, 2), layers=[], annotations={"fill": ""})
        fill = {"fill": secrets.token_hex(16) + "x" * (size - len(small) - 32)}
        body = manifests.image(config=Descriptor(_PROBE, config, 2), layers=[], annotations=fill)
        digest = digests.of_bytes(body)
        try:
            await wire_manifests.put(registry.client, name, digest, body, types.OCI_MANIFEST)
        except RemoteAuthError:
            return found
        except (InvalidInput, RemoteError, TooLarge) as error:
            notes.append(f"a manifest of {size} bytes is refused ({error.code})")
            continue
        try:
            await registry.delete_manifest(repository, digest)
        except BerthError as error:
            notes.append(f"left behind in {repository}: {digest} ({error.code})")
        return found if size == MANIFESTS[0] else replace(found, largest_manifest=size)
    return found


async def _pushed(registry: DistributionRegistry, repository: str, content: bytes) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    digest = digests.of_bytes(content)
    await registry.push_blob(repository, digest, size=len(content), chunks=chunks())
    return digest


async def _rate_limits(registry: DistributionRegistry, repository: str | None) -> list[str]:
    """What the answer to a HEAD (which is free at Docker Hub) says about how often we may ask."""
    name = registry.names.outward(repository or ABSENT)
    client = registry.client
    async with client.exchange(
        "HEAD",
        client.url(name, "manifests", "latest"),
        expect=(200, 400, 401, 403, 404),
        scopes=blobs.pull_scope(name),
        headers={"Accept": wire_manifests.ACCEPT},
    ) as answer:
        return [
            f"{key.lower()}: {answer.headers[key]}"
            for key in answer.headers
            if key.lower().startswith(("ratelimit", "x-ratelimit"))
        ]
