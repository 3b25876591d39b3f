"""Every question of this room against a real registry: Distribution 2.8, no referrers API, no token server."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from berth.errors import BlobUnknown, DigestInvalid, IntegrityError, ManifestUnknown, NotFound
from berth.oci.descriptor import Descriptor
from berth.wire import blobs, manifests, referrers, tags, transfer, uploads
from berth.wire.client import RegistryClient
from berth.wire.manifests import Seen
from berth.wire.sending import Upload
from berth.wire.transfer import RemoteSource
from berth.wire.uploads import Arrival

EMPTY = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def sha(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def opener(content: bytes, step: int = 1000) -> Callable[[int], AsyncIterator[bytes]]:
    async def opened(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(content), step):
            yield content[start : start + step]

    return opened


def upload(content: bytes, **more: object) -> Upload:
    return Upload(sha(content), len(content), opener(content), **more)  # type: ignore[arg-type]


async def image(client: RegistryClient, repository: str, layer: bytes, **more: object) -> bytes:
    """Uploads a layer and the empty config; returns the bytes of a manifest with both."""
    await uploads.put_bytes(client, repository, b"{}")
    await uploads.put_bytes(client, repository, layer)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": EMPTY, "size": 2},
        "layers": [{"mediaType": "application/octet-stream", "digest": sha(layer), "size": len(layer)}],
        **more,
    }
    return json.dumps(manifest).encode()


async def test_a_blob_comes_back_as_it_was_sent(registry: RegistryClient) -> None:
    content = os.urandom(3_000_001)
    assert await uploads.put(registry, "round/trip", upload(content)) is Arrival.uploaded
    assert await blobs.head(registry, "round/trip", sha(content)) == 3_000_001
    assert await blobs.read_all(registry, "round/trip", sha(content), limit=4_000_000) == content


async def test_the_empty_blob_can_be_stored_and_read(registry: RegistryClient) -> None:
    assert await uploads.put(registry, "empty/blob", upload(b"")) is Arrival.uploaded
    assert await blobs.read_all(registry, "empty/blob", sha(b""), limit=1) == b""


async def test_a_blob_that_is_there_is_not_sent_again(registry: RegistryClient) -> None:
    await uploads.put(registry, "twice/sent", upload(b"same"))

    async def never(offset: int) -> AsyncIterator[bytes]:
        raise AssertionError("the source was read")
        yield b""

    assert await uploads.put(registry, "twice/sent", Upload(sha(b"same"), 4, never)) is Arrival.present


async def test_a_blob_of_another_repository_is_mounted(registry: RegistryClient) -> None:
    content = b"shared weights"
    await uploads.put(registry, "mount/source", upload(content))
    found = await uploads.put(registry, "mount/target", upload(content, mount_from=("mount/nothing", "mount/source")))
    assert found is Arrival.mounted
    assert await blobs.read_all(registry, "mount/target", sha(content), limit=100) == content


async def test_chunks_make_the_same_blob(registry: RegistryClient) -> None:
    content = os.urandom(100_003)
    told: list[int] = []
    found = await uploads.put(registry, "chunk/ed", upload(content, chunk_bytes=30_000, sent=told.append))
    assert found is Arrival.uploaded
    assert sum(told) == 100_003
    assert await blobs.read_all(registry, "chunk/ed", sha(content), limit=200_000) == content


@pytest.mark.parametrize("chunk", [None, 3000])
async def test_a_source_that_changed_is_never_stored(registry: RegistryClient, chunk: int | None) -> None:
    promised, real = b"a" * 10_000, b"a" * 9_999 + b"b"
    bad = Upload(sha(promised), len(promised), opener(real), chunk_bytes=chunk)
    with pytest.raises(IntegrityError, match="changed while it was sent"):
        await uploads.put(registry, "changed/source", bad)
    assert await blobs.head(registry, "changed/source", sha(promised)) is None
    assert await blobs.head(registry, "changed/source", sha(real)) is None


@pytest.mark.parametrize("length", [9_000, 11_000])
async def test_a_source_of_another_length_is_never_stored(registry: RegistryClient, length: int) -> None:
    promised = b"a" * 10_000
    with pytest.raises(IntegrityError):
        await uploads.put(registry, "changed/length", Upload(sha(promised), 10_000, opener(b"b" * length)))
    assert await blobs.head(registry, "changed/length", sha(promised)) is None


async def test_reading_goes_on_from_an_offset(registry: RegistryClient) -> None:
    await uploads.put(registry, "off/set", upload(b"0123456789"))
    digest = sha(b"0123456789")
    assert b"".join([c async for c in blobs.stream(registry, "off/set", digest, offset=4)]) == b"456789"
    assert [c async for c in blobs.stream(registry, "off/set", digest, offset=10, size=10)] == []


async def test_a_missing_blob_is_said_to_be_missing(registry: RegistryClient) -> None:
    assert await blobs.head(registry, "round/trip", sha(b"never")) is None
    with pytest.raises(BlobUnknown):
        await blobs.read_all(registry, "round/trip", sha(b"never"), limit=10)
    assert await blobs.delete(registry, "round/trip", sha(b"never")) is False


async def test_a_manifest_is_stored_by_tag_and_by_digest(registry: RegistryClient) -> None:
    body = await image(registry, "mani/fest", b"layer")
    stored = await manifests.put(registry, "mani/fest", "1.0.0", body)
    assert stored.digest == sha(body)
    assert stored.subject is None
    for ref in ("1.0.0", sha(body)):
        fetched = await manifests.get(registry, "mani/fest", ref)
        assert (fetched.body, fetched.digest) == (body, sha(body))
        seen = await manifests.head(registry, "mani/fest", ref)
        assert seen is not None
        assert (seen.digest, seen.size) == (sha(body), len(body))
        assert seen.media_type == "application/vnd.oci.image.manifest.v1+json"
        # Docker's registry need not open the manifest to say that a guess is right, and tells the truth about others.
        assert await manifests.head(registry, "mani/fest", ref, likely=sha(body)) == Seen(sha(body), "", None)
        assert await manifests.head(registry, "mani/fest", ref, likely=sha(b"other")) == seen
    assert await manifests.head(registry, "mani/fest", "2.0.0") is None
    assert await manifests.head(registry, "mani/fest", "2.0.0", likely=sha(body)) is None
    with pytest.raises(ManifestUnknown):
        await manifests.get(registry, "mani/fest", "2.0.0")


async def test_a_manifest_under_another_digest_is_refused_before_it_is_sent(registry: RegistryClient) -> None:
    body = await image(registry, "mani/wrong", b"layer")
    with pytest.raises(DigestInvalid):
        await manifests.put(registry, "mani/wrong", sha(b"other"), body)


async def test_a_deleted_manifest_is_gone(registry: RegistryClient) -> None:
    body = await image(registry, "mani/deleted", b"layer")
    await manifests.put(registry, "mani/deleted", "1.0.0", body)
    assert await manifests.delete(registry, "mani/deleted", sha(body)) is True
    assert await manifests.head(registry, "mani/deleted", sha(body)) is None
    assert await manifests.delete(registry, "mani/deleted", sha(body)) is False


async def test_all_tags_are_listed_page_after_page(registry: RegistryClient) -> None:
    body = await image(registry, "many/tags", b"layer")
    expected = [f"1.0.{number}" for number in range(7)]
    for tag in expected:
        await manifests.put(registry, "many/tags", tag, body)
    for page in (2, 3, 7, 100):
        assert sorted([tag async for tag in tags.ls(registry, "many/tags", page=page)]) == expected
    with pytest.raises(NotFound):
        _ = [tag async for tag in tags.ls(registry, "no/such")]


async def test_referrers_are_kept_under_the_fallback_tag(registry: RegistryClient) -> None:
    subject = await image(registry, "refer/red", b"subject")
    await manifests.put(registry, "refer/red", "1.0.0", subject)
    described = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": sha(subject),
        "size": len(subject),
    }
    assert await referrers.ls(registry, "refer/red", sha(subject)) == []
    digests = []
    for text in (b"one", b"two"):
        body = await image(
            registry, "refer/red", text, subject=described, artifactType="application/vnd.example.report+json"
        )
        digests.append(await referrers.push(registry, "refer/red", body))
        assert await referrers.push(registry, "refer/red", body) == digests[-1]
    found = await referrers.ls(registry, "refer/red", sha(subject))
    assert [d.digest for d in found] == digests
    assert {d.artifact_type for d in found} == {"application/vnd.example.report+json"}
    assert await referrers.ls(registry, "refer/red", sha(subject), artifact_type="application/vnd.other") == []
    tag = sha(subject).replace(":", "-")
    accept = {"Accept": "application/vnd.oci.image.index.v1+json"}
    raw = httpx.get(f"{registry.origin}/v2/refer/red/manifests/{tag}", headers=accept).json()
    assert [m["digest"] for m in raw["manifests"]] == digests
    await referrers.remove_from_tag(registry, "refer/red", sha(subject), digests[0])
    assert [d.digest for d in await referrers.ls(registry, "refer/red", sha(subject))] == digests[1:]


async def test_a_tree_is_copied_with_every_child_and_the_tag(registry: RegistryClient) -> None:
    first, second = await image(registry, "tree/source", b"code"), await image(registry, "tree/source", b"weights")
    children = []
    for body in (first, second):
        digest = (await manifests.put(registry, "tree/source", sha(body), body)).digest
        children.append(
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": len(body)}
        )
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": children}
    ).encode()
    await manifests.put(registry, "tree/source", "1.0.0", index)
    source = RemoteSource(registry, "tree/source")
    copied = await transfer.copy_tree(source, registry, "tree/target", sha(index), tag="1.0.0")
    assert copied.manifests == 3
    assert copied.sent_bytes == len(b"{}") + len(b"code") + len(b"weights")
    assert (await manifests.get(registry, "tree/target", "1.0.0")).body == index
    assert (await manifests.get(registry, "tree/target", sha(second))).body == second
    assert await blobs.read_all(registry, "tree/target", sha(b"weights"), limit=100) == b"weights"
    again = await transfer.copy_tree(source, registry, "tree/target", sha(index), tag="1.0.0")
    assert (again.sent_bytes, set(again.arrivals.values())) == (0, {Arrival.present})
    other = await transfer.copy_tree(
        source, registry, "tree/third", sha(index), tag="1.0.0", mount_from=("tree/source",)
    )
    assert set(other.arrivals.values()) == {Arrival.mounted}


async def test_a_blob_is_saved_to_a_file(registry: RegistryClient, tmp_path: Path) -> None:
    content = os.urandom(2_500_000)
    await uploads.put(registry, "save/blob", upload(content))
    target = tmp_path / "weights.bin"
    received: list[int] = []
    blob = Descriptor("application/octet-stream", sha(content), len(content))
    await transfer.save_blob(registry, "save/blob", blob, target, received=received.append)
    assert target.read_bytes() == content
    assert sum(received) == len(content)
