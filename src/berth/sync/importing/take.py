"""How does a version become known without its bytes? By the same intake as a push, its layers left where they are.

Manifests are read, verified and kept; of blobs the size is compared with what the registry shows. The small documents
that intake is decided with are fetched. What a registry only says that it holds is not proven: the depot's bytes are
not given for it before its own have come (decision 26). The version, its content and its place appear together or not
at all; until it has been scanned here the gate refuses it like any other newcomer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime

from berth.adapters.registries.contract import Registry
from berth.adapters.stores.contract import BlobStore
from berth.catalog import classify, record
from berth.catalog import queries as catalog
from berth.db.engine import Database
from berth.errors import BlobUnknown, IntegrityError, NameUnknown, TooLarge
from berth.gates.arrival import arrived
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor
from berth.oci.manifest import Manifest
from berth.oci.version import from_tag
from berth.sync.copy import MAX_MANIFEST_BYTES, MAX_MANIFESTS, copy_evidence
from berth.sync.depot import DepotRegistry
from berth.sync.documents import read_documents
from berth.sync.flow import Flow, Journal
from berth.sync.importing import queries
from berth.sync.publishing import queries as placing
from berth.wire.parallel import each


@dataclass
class Taken:
    """What became known: `blobs` of it stay at the registry."""

    blobs: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Importer:
    """What all versions of one import share.

    Args:
        registry: the source's name here.
        by: who is recorded as pusher.
    """

    db: Database
    store: BlobStore
    depot: DepotRegistry
    source: Registry
    registry: str
    by: str
    now: Callable[[], datetime]
    flow: Flow

    async def take(
        self, repository: str, tag: str, digest: str, *, journal: Journal, known_tags: Collection[str] | None
    ) -> Taken:
        """Make one version known.

        Raises:
            IntegrityError: a manifest or the size of a blob is not what its name or its manifest says.
            BlobUnknown, ManifestUnknown: the registry itself lacks a part.
            VersionTaken, VersionInvalid, ManifestInvalid, Conflict: as a push of the same content.
        """
        tree = await self._tree(repository, digest)
        content: dict[str, Descriptor] = {}
        for manifest in tree.values():
            for blob in manifest.blobs():
                if blob.media_type not in types.FOREIGN_LAYER_TYPES:
                    content.setdefault(blob.digest, blob)
        await each(list(content.values()), lambda blob: self._look_at(repository, blob))
        await self._bring(repository, tag, digest, tree, content, journal)
        await self._record(repository, tag, digest, tree, content)
        evidence = await copy_evidence(
            self.source,
            self.depot,
            repository,
            list(tree),
            flow=self.flow,
            journal=journal,
            known_tags=known_tags,
            largest=classify.EVIDENCE_LIMIT,
        )
        return Taken(len(content), evidence.notes)

    async def _tree(self, repository: str, root: str) -> dict[str, Manifest]:
        """Every manifest below the root by digest, children before the indexes that name them."""
        found: dict[str, Manifest] = {}
        total = 0

        async def visit(digest: str) -> None:
            nonlocal total
            body = await self.source.manifest(repository, digest)
            if digests.of_bytes(body, digests.parse(digest).algorithm) != digest:
                raise IntegrityError(f"{self.registry} answered other bytes than {digest}.")
            total += len(body)
            if len(found) >= MAX_MANIFESTS or total > MAX_MANIFEST_BYTES:
                raise TooLarge(f"{root} consists of more than {MAX_MANIFESTS} manifests, or of very large ones.")
            manifest = manifests.parse(body)
            for child in manifest.children():
                if child.digest not in found:
                    await visit(child.digest)
            found[digest] = manifest

        await visit(root)
        return found

    async def _look_at(self, repository: str, blob: Descriptor) -> None:
        size = await self.source.blob_size(repository, blob.digest)
        if size is None:
            raise BlobUnknown(f"{self.registry} has no blob {blob.digest} in {repository}.")
        # Some registries do not say; the bytes are counted when they are fetched.
        if size not in (0, blob.size):
            raise IntegrityError(f"The manifest says {blob.digest} has {blob.size} bytes; {self.registry} says {size}.")

    async def _bring(
        self,
        repository: str,
        tag: str,
        root: str,
        tree: dict[str, Manifest],
        content: dict[str, Descriptor],
        journal: Journal,
    ) -> None:
        """Fetch what intake is decided with, and what is known here with another size: only the bytes can tell."""
        async with self.db.reading() as conn:
            disputed = await queries.contradicted(conn, {digest: blob.size for digest, blob in content.items()})
        wanted = set(disputed)
        for digest, manifest in tree.items():
            wanted |= set(classify.documents_wanted(manifest, tag if digest == root else None))
        for digest in sorted(wanted & set(content)):
            if digest in disputed or await self.depot.blob_size(repository, digest) is None:
                size = content[digest].size
                chunks = self.source.blob(repository, digest)
                await self.depot.push_blob(repository, digest, size=size, chunks=chunks)
                await journal.whole(digest, size=size, sent=size)

    async def _record(
        self, repository: str, tag: str, root: str, tree: dict[str, Manifest], content: dict[str, Descriptor]
    ) -> None:
        documents = {
            digest: await read_documents(
                self.db,
                self.store,
                self.depot.fetcher,
                repository=repository,
                manifest=manifest,
                tags=[tag if digest == root else None],
            )
            for digest, manifest in tree.items()
        }
        now = self.now()
        async with self.db.transaction() as conn:
            row = await catalog.ensure_repository(conn, repository)
            if row is None:
                raise NameUnknown(f"There is no project '{repository.partition('/')[0]}'.")
            proven = await queries.proven_blobs(conn, repository.partition("/")[0], content)
            for digest in sorted(content):
                known = await catalog.know_blob(conn, digest=digest, size=content[digest].size, lease_until=now)
                if known != content[digest].size:
                    raise IntegrityError(f"{digest} has {known} bytes here, and {content[digest].size} there.")
                await catalog.link_blob(conn, row.id, digest, proven=digest in proven)
            receipts = []
            for digest, manifest in tree.items():
                receipt = await record.put_manifest(
                    conn,
                    repository=row,
                    tag=tag if digest == root else None,
                    manifest=manifest,
                    digest=digest,
                    documents=documents[digest],
                    pushed_by=self.by,
                    elsewhere=content,
                )
                receipts.append(receipt)
            version = await catalog.version_by_number(conn, row.id, from_tag(tag))
            if version is None:
                raise IntegrityError(f"{repository}:{tag} did not become a version.")
            await placing.found_there(conn, version=version.id, registry=self.registry, repository=repository, now=now)
            for receipt, manifest in zip(receipts, tree.values(), strict=True):
                await arrived(
                    conn,
                    repository=row,
                    receipt=receipt,
                    manifest=manifest,
                    documents=documents[receipt.digest],
                    pushed_by=self.by,
                    now=now,
                )
