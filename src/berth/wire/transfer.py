"""How is a whole version copied? Blobs several at a time, then manifests from the leaves up, the tag last.

So a reader never finds a manifest whose content is missing, and a copy that was broken off goes on where it stopped:
what is there already is not sent again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from berth.errors import IntegrityError, ManifestUnknown
from berth.oci import digest as digests
from berth.oci import manifest as oci_manifest
from berth.oci import media_types
from berth.oci.descriptor import Descriptor
from berth.oci.manifest import Manifest
from berth.oci.referrers import descriptor_for
from berth.wire import blobs, manifests, referrers, uploads
from berth.wire.client import RegistryClient
from berth.wire.hashing import in_thread
from berth.wire.parallel import each
from berth.wire.sending import Upload
from berth.wire.uploads import Arrival

PARALLEL = 4
READ_BYTES = 1024 * 1024
_MAX_DEPTH = 8
_MAX_MANIFESTS = 10_000


class Source(Protocol):
    """A place that a version can be copied from."""

    async def manifest(self, digest: str) -> bytes:
        """The manifest's bytes; raises ManifestUnknown."""

    def blob(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        """The blob's bytes from `offset`; whoever receives them compares the digest."""


class Progress(Protocol):
    """Hears how far each blob is. `note` says how it came: present, mounted, uploaded."""

    def start(self, name: str, total: int) -> None: ...
    def advance(self, name: str, count: int) -> None: ...
    def finish(self, name: str, note: str = "") -> None: ...


@dataclass(frozen=True)
class RemoteSource:
    """A repository of a registry as a source."""

    client: RegistryClient
    repository: str

    async def manifest(self, digest: str) -> bytes:
        return (await manifests.get(self.client, self.repository, digest)).body

    def blob(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        return blobs.stream(self.client, self.repository, digest, offset=offset)


@dataclass(frozen=True)
class FileSource:
    """Content in local files as a source, found by two functions (for example those of the local repository)."""

    read_manifest: Callable[[str], bytes]
    open_blob: Callable[[str], BinaryIO]

    async def manifest(self, digest: str) -> bytes:
        return self.read_manifest(digest)

    def blob(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        return read_file(lambda: self.open_blob(digest), offset)


@dataclass(frozen=True)
class Copied:
    """What a copy did; `arrivals` has every blob, `sent_bytes` counts uploaded blobs only."""

    digest: str
    manifests: int
    arrivals: Mapping[str, Arrival]
    sent_bytes: int


@dataclass
class Tree:
    """A manifest with everything below it; children come before parents in `order`."""

    order: list[tuple[str, Manifest]] = field(default_factory=list)
    blobs: dict[str, Descriptor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(d.size for d in self.blobs.values())


async def read_file(open_file: Callable[[], BinaryIO], offset: int, size: int = READ_BYTES) -> AsyncIterator[bytes]:
    """A file's bytes from `offset`, read in threads."""
    # Opening can take long: a source may have to compare the file with its digest first.
    stream = await in_thread(open_file)
    try:
        await in_thread(stream.seek, offset)
        while True:
            chunk = await in_thread(stream.read, size)
            if not chunk:
                return
            yield chunk
    finally:
        stream.close()


async def tree_of(source: Source, digest: str) -> Tree:
    """Reads a manifest and all manifests below it. Raises ManifestUnknown, ManifestInvalid, IntegrityError."""
    tree = Tree()
    await _walk(source, digest, tree, seen=set(), depth=0)
    return tree


async def copy_tree(
    source: Source,
    client: RegistryClient,
    repository: str,
    digest: str,
    *,
    tag: str | None = None,
    mount_from: Sequence[str] = (),
    parallel: int = PARALLEL,
    chunk_bytes: int | None = None,
    progress: Progress | None = None,
    names: Mapping[str, str] | None = None,
) -> Copied:
    """Copies a manifest or index, with all children and blobs, into a repository of a registry.

    Args:
        digest: root of the tree in `source`.
        tag: name to give the root at the very end; without one it is stored by digest.
        mount_from: other repositories of that registry which may hold some of the blobs.
        parallel: how many blobs are on the way at the same time.
        chunk_bytes: blobs larger than this are sent in chunks of it, which resume after a failure.
        names: what to call a blob in `progress` (default: the start of its digest).
    """
    tree = await tree_of(source, digest)
    arrivals: dict[str, Arrival] = {}

    async def one(blob: Descriptor) -> None:
        name = (names or {}).get(blob.digest) or short(blob.digest)
        if progress is not None:
            progress.start(name, blob.size)
        upload = Upload(
            digest=blob.digest,
            size=blob.size,
            open=lambda offset: source.blob(blob.digest, offset),
            mount_from=mount_from,
            chunk_bytes=chunk_bytes,
            sent=(lambda count: progress.advance(name, count)) if progress is not None else (lambda _: None),
        )
        arrivals[blob.digest] = await uploads.put(client, repository, upload)
        if progress is not None:
            progress.finish(name, arrivals[blob.digest].value)

    # Large ones first: the longest transfer should not be the one that starts last.
    await each(sorted(tree.blobs.values(), key=lambda b: -b.size), one, at_once=parallel)
    for child, manifest in tree.order[:-1]:
        await _put(client, repository, child, manifest)
    await _put(client, repository, tag or digest, tree.order[-1][1])
    sent = sum(b.size for d, b in tree.blobs.items() if arrivals[d] is Arrival.uploaded)
    return Copied(digest, len(tree.order), arrivals, sent)


async def save_blob(
    client: RegistryClient,
    repository: str,
    blob: Descriptor,
    path: Path,
    *,
    received: Callable[[int], None] = lambda _: None,
) -> None:
    """Downloads a blob into a new file, verified; on any failure no file is left."""
    out = await in_thread(path.open, "xb")
    try:
        with out:
            async for chunk in blobs.read(client, repository, blob.digest, size=blob.size):
                await in_thread(out.write, chunk)
                received(len(chunk))
    except BaseException:
        await in_thread(partial(path.unlink, missing_ok=True))
        raise


def short(digest: str) -> str:
    """`sha256:` and the first 12 characters, as people compare digests."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm}:{encoded[:12]}"


async def _walk(source: Source, digest: str, tree: Tree, *, seen: set[str], depth: int) -> None:
    if digest in seen:
        return
    seen.add(digest)
    if depth > _MAX_DEPTH or len(seen) > _MAX_MANIFESTS:
        raise ManifestUnknown(f"The index is nested deeper than {_MAX_DEPTH} or names too many manifests.")
    body = await source.manifest(digest)
    if digests.of_bytes(body, digests.parse(digest).algorithm) != digest:
        raise IntegrityError(f"The manifest {digest} is damaged at its source.", detail={"digest": digest})
    parsed = oci_manifest.parse(body)
    for child in parsed.children():
        await _walk(source, child.digest, tree, seen=seen, depth=depth + 1)
    for blob in parsed.blobs():
        if not _is_elsewhere(blob):
            tree.blobs.setdefault(blob.digest, blob)
    tree.order.append((digest, parsed))


async def _put(client: RegistryClient, repository: str, ref: str, manifest: Manifest) -> None:
    stored = await manifests.put(client, repository, ref, manifest.body, manifest.media_type)
    if manifest.subject is not None and stored.subject is None:
        entry = descriptor_for(manifest, stored.digest)
        await referrers.add_to_tag(client, repository, manifest.subject.digest, entry)


def _is_elsewhere(blob: Descriptor) -> bool:
    return blob.media_type in media_types.FOREIGN_LAYER_TYPES and bool(blob.urls)
