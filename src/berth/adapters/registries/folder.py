"""A folder as a registry: one OCI image layout per repository, `ROOT/project/name` (image-spec image-layout.md).

skopeo, podman, crane and oras read the same folder (`oci:ROOT/project/name:1.0.0`). Files are written beside their
place, hashed, fsynced and renamed, so a reader never sees a half-written blob.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from errno import EACCES, EPERM, EROFS
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryFile
from typing import TypeVar

from berth.adapters.registries.contract import Capabilities, Health, Page, Stat
from berth.errors import (
    BlobUnknown,
    BlobUnknownToManifest,
    DigestInvalid,
    IntegrityError,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    SetupError,
    StorageFull,
    Unavailable,
)
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci import reference as references
from berth.oci import referrers
from berth.oci.descriptor import Descriptor
from berth.oci.layout import Layout
from berth.oci.manifest import Manifest

T = TypeVar("T")

READ_SIZE = 1 << 20
REF_NAME = "org.opencontainers.image.ref.name"


class FolderRegistry:
    """A `Registry` in a local folder.

    Args:
        root: the folder; made when missing.
        threads: size of the executor for reading, writing and hashing.
    """

    capabilities = Capabilities()

    def __init__(self, root: Path, *, threads: int = 4) -> None:
        self.root = root
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="folder-registry")

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(
                    f"The disk of {self.root} is full; nothing of what was being written is there.",
                    hint="Free some space there, then run it again: what has arrived is not sent again.",
                ) from error
            raise Unavailable(f"The folder {self.root} cannot be used: {error.strerror}.") from error

    def _layout(self, repository: str) -> Layout:
        references.check_repository(repository)  # before it becomes a path
        return Layout(self.root / repository)

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        def find() -> list[str]:
            found = []
            for marker in self.root.glob("*/*/oci-layout"):
                name = str(marker.parent.relative_to(self.root))
                with suppress(NameInvalid):
                    references.check_repository(name)
                    found.append(name)
            return sorted(found)

        return _page(await self._run(find), after, limit)

    async def tags(self, repository: str, *, after: str | None = None, limit: int = 100) -> Page[str]:
        entries = await self._run(_entries, self._layout(repository))
        return _page(sorted({e.annotations[REF_NAME] for e in entries if REF_NAME in e.annotations}), after, limit)

    async def stat(self, repository: str, reference: str) -> Stat | None:
        layout = self._layout(repository)

        def look() -> Stat | None:
            entries = _entries(layout)
            if not digests.is_digest(reference):
                entry = next((e for e in entries if e.annotations.get(REF_NAME) == reference), None)
                return None if entry is None else Stat(entry.digest, entry.media_type, entry.size)
            found = _manifests(layout).get(reference)
            return None if found is None else Stat(reference, found.media_type, found.size)

        return await self._run(look)

    async def manifest(self, repository: str, digest: str) -> bytes:
        layout = self._layout(repository)

        def read() -> bytes:
            if digest not in _manifests(layout):
                raise ManifestUnknown(f"{repository} in {self.root} has no manifest {digest}.")
            return layout.read(digest)

        return await self._run(read)

    async def blob_size(self, repository: str, digest: str) -> int | None:
        layout = self._layout(repository)
        return await self._run(lambda: layout.size(digest) if layout.has(digest) else None)

    async def blob(self, repository: str, digest: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        layout = self._layout(repository)
        if not await self._run(layout.has, digest):
            raise BlobUnknown(f"{repository} in {self.root} has no blob {digest}.")
        stream = await self._run(layout.open, digest)
        try:
            await self._run(stream.seek, offset)
            while piece := await self._run(stream.read, READ_SIZE):
                yield piece
        finally:
            stream.close()

    async def mount_blob(self, repository: str, digest: str, *, source: str) -> bool:
        target, origin = self._layout(repository), self._layout(source)

        def link() -> bool:
            if not origin.has(digest):
                return False
            target.create()
            place = target.path_of(digest)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(origin.path_of(digest), place)
            except FileExistsError:
                return True
            except OSError:
                return False  # another file system: the caller pushes it instead
            _sync(place.parent)
            return True

        return await self._run(link)

    async def push_blob(self, repository: str, digest: str, *, size: int, chunks: AsyncIterable[bytes]) -> None:
        layout = self._layout(repository)
        if await self._run(layout.has, digest):
            return
        await self._run(layout.create)
        place = layout.path_of(digest)
        temporary = place.parent / f".{secrets.token_hex(8)}.part"
        algorithm = digests.parse(digest).algorithm
        hasher = digests.new_hasher(algorithm)

        def begin() -> int:
            place.parent.mkdir(parents=True, exist_ok=True)
            return os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)

        def write(chunk: bytes) -> None:
            hasher.update(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(descriptor, rest) :]

        def settle() -> None:
            os.fsync(descriptor)
            os.rename(temporary, place)
            _sync(place.parent)

        descriptor = await self._run(begin)
        received = 0
        try:
            async for chunk in chunks:
                received += len(chunk)
                await self._run(write, chunk)
            found = f"{algorithm}:{hasher.hexdigest()}"
            if found != digest or received != size:
                raise DigestInvalid(f"The pushed bytes are {found} ({received} bytes), not {digest} ({size} bytes).")
            await self._run(settle)
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)

    async def push_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
        layout = self._layout(repository)
        manifest = manifests.parse(body, media_type)
        algorithm = digests.parse(reference).algorithm if digests.is_digest(reference) else "sha256"
        digest = digests.of_bytes(body, algorithm)
        if digests.is_digest(reference):
            if digest != reference:
                raise DigestInvalid(f"The manifest is {digest}, not {reference}.")
        else:
            references.check_tag(reference)

        def store() -> str:
            layout.create()
            _check_complete(layout, manifest, repository)
            layout.write_blob(body, algorithm)
            entry = Descriptor(manifest.media_type, digest, len(body), artifact_type=manifest.referrer_artifact_type)
            layout.add(entry, None if digests.is_digest(reference) else reference)
            return digest

        return await self._run(store)

    async def delete_tag(self, repository: str, tag: str) -> bool:
        layout = self._layout(repository)

        def remove() -> bool:
            entry = next((e for e in _entries(layout) if e.annotations.get(REF_NAME) == tag), None)
            if entry is None:
                return False
            layout.remove(tag)
            layout.add(Descriptor(entry.media_type, entry.digest, entry.size, artifact_type=entry.artifact_type))
            return True

        return await self._run(remove)

    async def delete_manifest(self, repository: str, digest: str) -> bool:
        layout = self._layout(repository)

        def remove() -> bool:
            if digest not in _manifests(layout):
                return False
            layout.update(lambda entries: [e for e in entries if e.digest != digest])
            if digest not in _manifests(layout):
                layout.path_of(digest).unlink(missing_ok=True)
            return True

        return await self._run(remove)

    async def referrers(self, repository: str, digest: str, *, artifact_type: str | None = None) -> list[Descriptor]:
        layout = self._layout(repository)

        def find() -> list[Descriptor]:
            found = {}
            for own, manifest in _manifests(layout).items():
                if manifest.subject is not None and manifest.subject.digest == digest:
                    found[own] = referrers.descriptor_for(manifest, own)
            return [d for _, d in sorted(found.items()) if artifact_type in (None, d.artifact_type)]

        return await self._run(find)

    async def health(self) -> Health:
        """Whether the folder is there, takes a file (which nobody sees), and how much still fits."""

        def look() -> Health:
            if not self.root.is_dir():
                problem = f"{self.root} does not exist. Is its disk mounted? The first push makes it."
                return Health(healthy=False, components={"folder": problem})
            writing, read_only = "healthy", False
            try:
                with TemporaryFile(dir=self.root):
                    pass
            except OSError as error:
                writing, read_only = str(error.strerror), error.errno in (EACCES, EPERM, EROFS)
            return Health(
                healthy=read_only or writing == "healthy",
                components={"folder": "healthy", "writing": writing},
                read_only=read_only,
                free_bytes=disk_usage(self.root).free,
            )

        return await self._run(look)

    async def close(self) -> None:
        # Not waited for: a thread that a dead network disk holds would hold the whole loop.
        self._executor.shutdown(wait=False)


def _entries(layout: Layout) -> list[Descriptor]:
    """The entries of `index.json`; none when the folder is no layout (yet)."""
    if not (layout.path / "oci-layout").is_file():
        return []
    try:
        return layout.index()
    except SetupError:
        return []


def _manifests(layout: Layout) -> dict[str, Manifest]:
    """Every manifest that `index.json` reaches, by digest. Unreadable ones are left out."""
    found: dict[str, Manifest] = {}
    waiting = [(e.digest, e.media_type) for e in _entries(layout)]
    while waiting:
        digest, media_type = waiting.pop()
        if digest in found or media_type not in types.INDEX_TYPES | types.MANIFEST_TYPES:
            continue
        try:
            found[digest] = manifests.parse(layout.read(digest), media_type)
        except (BlobUnknown, IntegrityError, ManifestInvalid):
            continue
        waiting += [(child.digest, child.media_type) for child in found[digest].children()]
    return found


def _check_complete(layout: Layout, manifest: Manifest, repository: str) -> None:
    missing = [
        item.digest
        for item in (*manifest.blobs(), *manifest.children())
        if item.media_type not in types.FOREIGN_LAYER_TYPES and not layout.has(item.digest)
    ]
    if missing:
        raise BlobUnknownToManifest(
            f"{repository} does not hold {', '.join(missing[:3])}.", detail={"missing": missing}
        )


def _page(items: list[str], after: str | None, limit: int) -> Page[str]:
    rest = [item for item in items if after is None or item > after]
    return Page(rest[:limit], rest[limit - 1] if len(rest) > limit else None)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
