"""An object store as a registry: an OCI image layout per model, `PREFIX/project/model`.

S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage. Copied to a disk, such a layout is read by skopeo,
podman, crane and oras.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from berth.adapters.registries.contract import Capabilities, Health, Kind, Page, RegistrySettings, Stat
from berth.adapters.registries.distribution import capabilities_of
from berth.adapters.registries.names import Limits
from berth.adapters.registries.objects_layout import SMALL, Objects, part_size
from berth.adapters.registries.objects_store import Door, Place, opened, place_of
from berth.errors import (
    BlobUnknown,
    BlobUnknownToManifest,
    DigestInvalid,
    IntegrityError,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    RemoteError,
    Unsupported,
)
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci import reference as references
from berth.oci import referrers
from berth.oci.descriptor import Descriptor
from berth.oci.layout import REF_NAME, added
from berth.oci.manifest import Manifest
from berth.wire.hashing import RunningDigest

if TYPE_CHECKING:
    from berth.adapters.registries.objects_store import Store

AT_ONCE: Final = 16
# Manifests never change, so what was read once is kept, up to this many bytes.
MANIFESTS_KEPT: Final = 32 << 20


class ObjectRegistry:
    """A `Registry` in an object store.

    Args:
        store: an opened store instead of the one that the settings name (for tests).
    """

    KIND: ClassVar[Kind] = Kind(
        "objects",
        "Object storage: S3 and compatible, Google Cloud Storage, Azure",
        Capabilities(largest_manifest=manifests.MAX_BYTES),
        {
            "endpoint": "https://host[:port] of a store that is not the vendor's own; Azure's may end in /ACCOUNT.",
            "region": "Region of an S3 bucket; us-east-1 if left out.",
            "account": "Azure storage account, if it is not the user name.",
            "redirect": "true: readers may be sent to the store with URLs that are signed for a minute.",
            "ca_file": "File on Berth's machine with further certificates (PEM) to trust.",
            "single_writer": "true: only this Berth writes there, so conditional writes are not needed.",
            "insecure": "true: plain http is allowed.",
            "allow_private": "true: an endpoint whose name leads to a private address is allowed.",
            "capabilities": "What it can do, over what a probe found.",
        },
    )

    def __init__(self, settings: RegistrySettings, *, store: Store | None = None) -> None:
        self.settings = settings
        self.place: Place = place_of(settings)
        defaults = replace(
            self.KIND, capabilities=replace(self.KIND.capabilities, largest_blob=self.place.facts.largest)
        )
        self.capabilities = capabilities_of(defaults, settings)
        self._objects = Objects(
            opened(settings) if store is None else store,
            self.place.prefix,
            door=Door(settings),
            single_writer=settings.flag("single_writer"),
            what=settings.url,
        )
        self._parsed: OrderedDict[str, Manifest] = OrderedDict()
        self._parsed_bytes = 0
        self._slots = asyncio.Semaphore(AT_ONCE)

    @classmethod
    def check(cls, settings: RegistrySettings) -> None:
        """Raises InvalidInput for settings that cannot work. Asks nobody."""
        place_of(settings)

    # ---- lists

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        found: list[str] = []
        for project in await self._objects.folders():
            if after is not None and project < after.partition("/")[0]:
                continue
            names = [f"{project}/{model}" for model in await self._objects.folders(project)]
            candidates = [name for name in names if _is_name(name) and (after is None or name > after)]
            for start in range(0, len(candidates), AT_ONCE):
                some = candidates[start : start + AT_ONCE]
                sizes = await asyncio.gather(*(self._objects.size(self._objects.key(n, "index.json")) for n in some))
                found += [name for name, size in zip(some, sizes, strict=True) if size is not None]
                if len(found) > limit:
                    return Page(found[:limit], found[limit - 1])
        return Page(found)

    async def tags(self, repository: str, *, after: str | None = None, limit: int = 100) -> Page[str]:
        entries = await self._entries(repository)
        names = sorted({e.annotations[REF_NAME] for e in entries if REF_NAME in e.annotations})
        rest = [name for name in names if after is None or name > after]
        return Page(rest[:limit], rest[limit - 1] if len(rest) > limit else None)

    # ---- reading

    async def stat(self, repository: str, reference: str) -> Stat | None:
        entries = await self._entries(repository)
        by_digest = digests.is_digest(reference)
        for entry in entries:
            if reference == (entry.digest if by_digest else entry.annotations.get(REF_NAME)):
                return Stat(entry.digest, entry.media_type, entry.size)
        # Asked first: most that is not in the index is not there at all.
        if not by_digest or await self._objects.size(self._objects.blob_key(repository, reference)) is None:
            return None
        found = (await self._manifests(repository)).get(reference)
        return None if found is None else Stat(reference, found.media_type, found.size)

    async def manifest(self, repository: str, digest: str) -> bytes:
        if await self.stat(repository, digest) is not None:
            found = await self._read_manifest(repository, digest)
            if found is not None:
                return found.body
        raise ManifestUnknown(f"{repository} in {self.settings.url} has no manifest {digest}.")

    async def blob_size(self, repository: str, digest: str) -> int | None:
        return await self._objects.size(self._blob_key(repository, digest))

    async def blob(self, repository: str, digest: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        size = await self.blob_size(repository, digest)
        if size is None:
            raise BlobUnknown(f"{repository} in {self.settings.url} has no blob {digest}.")
        if offset < size:
            async for piece in self._objects.stream(self._blob_key(repository, digest), offset=offset):
                yield piece

    async def presigned(self, repository: str, digest: str, *, seconds: int) -> str | None:
        """A URL that hands out this blob for so long; None unless the option `redirect` is set."""
        if not self.settings.flag("redirect"):
            return None
        key = self._blob_key(repository, digest)
        if await self._objects.size(key) is None:
            return None
        try:
            return await self._objects.sign(key, seconds=seconds)
        except (RemoteError, Unsupported):  # who we are here may read, and not sign
            return None

    # ---- writing

    async def mount_blob(self, repository: str, digest: str, *, source: str) -> bool:
        origin, target = self._blob_key(source, digest), self._blob_key(repository, digest)
        size = await self._objects.size(origin)
        if size is None:
            return False
        if await self._objects.size(target) == size:
            return True
        # A larger one goes by way of us: stores copy it in parts, which obstore does not do.
        return size <= self.place.facts.largest_copy and await self._objects.copy(origin, target)

    async def push_blob(self, repository: str, digest: str, *, size: int, chunks: AsyncIterable[bytes]) -> None:
        key = self._blob_key(repository, digest)
        self.limits().check("an object store", [Descriptor("application/octet-stream", digest, size)])
        if await self._objects.size(key) == size:
            return
        async with aclosing(self._verified(digest, size, chunks)) as pieces:
            if size > SMALL:
                await self._objects.put_parts(key, pieces, part=part_size(size, parts=self.place.facts.parts))
            else:
                await self._objects.put_once(key, b"".join([piece async for piece in pieces]))

    async def _verified(self, digest: str, size: int, chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """The chunks, hashed on their way. Raises DigestInvalid at their end, before an object is made of them."""
        running = RunningDigest(digest)
        async for chunk in chunks:
            await running.update(chunk)
            if running.count > size:
                break
            yield chunk
        if running.count != size or not running.matches():
            raise DigestInvalid(f"The pushed bytes ({running.count}) are not {digest} ({size} bytes).")

    async def push_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
        manifest = manifests.parse(body, media_type)
        by_digest = digests.is_digest(reference)
        digest = digests.of_bytes(body, digests.parse(reference).algorithm if by_digest else "sha256")
        if by_digest and digest != reference:
            raise DigestInvalid(f"The manifest is {digest}, not {reference}.")
        if not by_digest:
            references.check_tag(reference)
        key = self._blob_key(repository, digest)
        await self._check_complete(repository, manifest)
        await self._objects.put_once(key, body)
        entry = Descriptor(manifest.media_type, digest, len(body), artifact_type=manifest.referrer_artifact_type)
        await self._objects.change(repository, lambda entries: added(entries, entry, None if by_digest else reference))
        if await self._objects.size(key) is None:  # somebody deleted it meanwhile
            await self._objects.put_once(key, body)
        return digest

    async def _check_complete(self, repository: str, manifest: Manifest) -> None:
        wanted = [
            item.digest
            for item in (*manifest.blobs(), *manifest.children())
            if item.media_type not in types.FOREIGN_LAYER_TYPES
        ]
        missing: list[str] = []
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            sizes = await asyncio.gather(*(self.blob_size(repository, digest) for digest in some))
            missing += [digest for digest, size in zip(some, sizes, strict=True) if size is None]
        if missing:
            raise BlobUnknownToManifest(
                f"{repository} does not hold {', '.join(missing[:3])}.", detail={"missing": missing}
            )

    # ---- removing

    async def delete_tag(self, repository: str, tag: str) -> bool:
        references.check_tag(tag)
        removed: list[Descriptor] = []

        def change(entries: list[Descriptor]) -> list[Descriptor]:
            removed[:] = [e for e in entries if e.annotations.get(REF_NAME) == tag]
            kept = [e for e in entries if e.annotations.get(REF_NAME) != tag]
            for entry in removed:
                kept = added(kept, Descriptor(entry.media_type, entry.digest, entry.size, entry.artifact_type))
            return kept

        if all(e.annotations.get(REF_NAME) != tag for e in await self._entries(repository)):
            return False
        await self._objects.change(repository, change)
        return bool(removed)

    async def delete_manifest(self, repository: str, digest: str) -> bool:
        held = (await self._manifests(repository)).get(digest)
        if held is None:
            return False
        await self._objects.change(repository, lambda entries: [e for e in entries if e.digest != digest])
        if digest not in await self._manifests(repository):
            key = self._blob_key(repository, digest)
            await self._objects.delete(key)
            if any(e.digest == digest for e in await self._entries(repository)):
                await self._objects.put_once(key, held.body)  # somebody pushed it meanwhile
        return True

    # ---- health, referrers, limits, end

    async def health(self) -> Health:
        """Whether the bucket can be listed, and a small object be written."""
        await self._objects.folders()
        refused = await self._objects.refuses_writing()
        parts = {"reachable": "healthy", "credentials": "healthy", "writing": refused or "healthy"}
        return Health(healthy=True, components=parts, read_only=refused is not None)

    async def referrers(self, repository: str, digest: str, *, artifact_type: str | None = None) -> list[Descriptor]:
        found = {}
        for own, manifest in (await self._manifests(repository)).items():
            if manifest.subject is not None and manifest.subject.digest == digest:
                found[own] = referrers.descriptor_for(manifest, own)
        return [d for _, d in sorted(found.items()) if artifact_type in (None, d.artifact_type)]

    def limits(self) -> Limits:
        """What the store takes, or as configured."""
        return Limits(self.capabilities.largest_blob, self.capabilities.largest_manifest)

    def check_content(self, repository: str, tag: str | None, content: Iterable[Descriptor]) -> None:
        """Whether name and sizes fit, before a byte moves. Raises NameInvalid, TooLarge."""
        references.check_repository(repository)
        if tag is not None:
            references.check_tag(tag)
        self.limits().check("an object store", content)

    async def probe(self, repository: str | None = None) -> Capabilities:
        """What it can do. With a repository a small object is written and removed."""
        await self.repositories(limit=1)
        notes = []
        if repository is not None:
            swaps = await self._objects.swaps()
            notes.append(
                f"conditional writes: {'yes' if swaps else 'no; set single_writer if nobody else writes there'}"
            )
        else:
            notes.append("conditional writes: not tried; name a repository")
        try:
            await self._objects.sign(self._objects.key("berth", "absent"), seconds=60)
            notes.append(
                f"signed URLs: yes, {'used' if self.settings.flag('redirect') else 'not used without redirect'}"
            )
        except (RemoteError, Unsupported) as error:
            notes.append(f"signed URLs: no ({error.message})")
        return replace(self.capabilities, notes=tuple(notes))

    async def close(self) -> None:
        """obstore's connections end with it."""

    # ---- inside

    def _blob_key(self, repository: str, digest: str) -> str:
        references.check_repository(repository)  # before it becomes a key
        return self._objects.blob_key(repository, digest)

    async def _entries(self, repository: str) -> list[Descriptor]:
        references.check_repository(repository)
        return (await self._objects.index(repository)).entries

    async def _manifests(self, repository: str) -> dict[str, Manifest]:
        """Every manifest that `index.json` reaches, by digest. Unreadable ones are left out."""
        found: dict[str, Manifest] = {}
        seen: set[str] = set()
        level = [(e.digest, e.media_type) for e in await self._entries(repository)]
        while level:
            wanted = [
                digest for digest, kind in dict(level).items()
                if digest not in seen and kind in types.INDEX_TYPES | types.MANIFEST_TYPES
            ]  # fmt: skip
            seen.update(wanted)
            read = await asyncio.gather(*(self._readable(repository, digest) for digest in wanted))
            there = {digest: manifest for digest, manifest in zip(wanted, read, strict=True) if manifest is not None}
            found |= there
            level = [(child.digest, child.media_type) for m in there.values() for child in m.children()]
        return found

    async def _readable(self, repository: str, digest: str) -> Manifest | None:
        try:
            return await self._read_manifest(repository, digest)
        except (IntegrityError, ManifestInvalid):
            return None

    async def _read_manifest(self, repository: str, digest: str) -> Manifest | None:
        """A manifest, verified; None when it is not there. Raises IntegrityError, ManifestInvalid."""
        name = f"{repository}@{digest}"
        if (known := self._parsed.get(name)) is not None:
            self._parsed.move_to_end(name)
            return known
        async with self._slots:
            body = await self._objects.read(self._blob_key(repository, digest), limit=manifests.MAX_BYTES)
        if body is None:
            return None
        if digests.of_bytes(body, digests.parse(digest).algorithm) != digest:
            raise IntegrityError(f"The object of {digest} in {self.settings.url} holds other bytes.")
        parsed = manifests.parse(body)
        if name not in self._parsed:
            self._parsed[name] = parsed
            self._parsed_bytes += parsed.size
        while self._parsed_bytes > MANIFESTS_KEPT:
            self._parsed_bytes -= self._parsed.popitem(last=False)[1].size
        return parsed


def _is_name(name: str) -> bool:
    try:
        references.check_repository(name)
    except NameInvalid:
        return False
    return True
