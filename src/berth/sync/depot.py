"""The depot as a registry: the default home, and the source and target of every copy (adapters/registries/contract.py).

It stands here and not among the adapters because it needs the catalogue: content that comes in this way is recorded,
scanned and judged exactly as if a client had pushed it.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection
from contextlib import aclosing
from datetime import datetime, timedelta

from berth.adapters.registries.contract import Capabilities, Page, Stat
from berth.adapters.stores.contract import BlobStore
from berth.catalog import queries as catalog
from berth.catalog import record, removal
from berth.catalog.blobs import receive_blob
from berth.catalog.queries import RepositoryRow
from berth.db.engine import Database
from berth.errors import BlobUnknown, DigestInvalid, ManifestUnknown, NameUnknown
from berth.gates.arrival import arrived
from berth.gates.verdicts import verdict_of
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import reference as references
from berth.oci import referrers
from berth.oci.descriptor import Descriptor
from berth.sync import queries
from berth.sync.cache.fetcher import Fetcher
from berth.sync.documents import read_documents
from berth.wire.plan import Listed


class DepotRegistry:
    """A `Registry` over our own database and store. It sees everything; whoever offers it to people gates it.

    Args:
        fetcher: brings what is at other registries only; without it that cannot be read.
        lease: how long blobs that no manifest names yet are kept from clean-up.
        principal: who is recorded as pusher.
    """

    capabilities = Capabilities()

    def __init__(
        self,
        db: Database,
        store: BlobStore,
        *,
        clock: Callable[[], datetime],
        fetcher: Fetcher | None = None,
        lease: timedelta = timedelta(days=1),
        principal: str = "berth",
    ) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self.fetcher = fetcher or Fetcher(db, store, remote=None, clock=clock)
        self._lease = lease
        self._principal = principal

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        async with self._db.reading() as conn:
            return _page(await queries.repository_names(conn, after=after or "", limit=limit + 1), limit)

    async def tags(self, repository: str, *, after: str | None = None, limit: int = 100) -> Page[str]:
        async with self._db.reading() as conn:
            row = await catalog.repository(conn, repository)
            names = await catalog.tag_names(conn, row.id, after=after or "", limit=limit + 1) if row else []
        return _page(names, limit)

    async def stat(self, repository: str, reference: str) -> Stat | None:
        async with self._db.reading() as conn:
            row = await catalog.repository(conn, repository)
            if row is None:
                return None
            digest: str | None = reference
            if not digests.is_digest(reference):
                digest = await catalog.tag_digest(conn, row.id, reference)
            found = await catalog.manifest_in(conn, row.id, digest) if digest else None
        return None if found is None else Stat(found.digest, found.media_type, found.size)

    async def manifest(self, repository: str, digest: str) -> bytes:
        async with self._db.reading() as conn:
            row = await catalog.repository(conn, repository)
            found = await catalog.manifest_in(conn, row.id, digest) if row else None
        if found is None:
            raise ManifestUnknown(f"{repository} has no manifest {digest}.")
        return found.body

    async def blob_size(self, repository: str, digest: str) -> int | None:
        async with self._db.reading() as conn:
            row = await catalog.repository(conn, repository)
            places = await catalog.linked_places(conn, row.id, [digest]) if row else {}
        return places[digest][1] if digest in places else None

    async def blob(self, repository: str, digest: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        async with self._db.reading() as conn:
            row = await catalog.repository(conn, repository)
            places = await catalog.linked_places(conn, row.id, [digest]) if row else {}
        if row is None or digest not in places:
            raise BlobUnknown(f"{repository} has no blob {digest}.")
        location, size = places[digest]
        if location is None and not offset:
            async with aclosing(self.fetcher.stream(digest, repository_id=row.id)) as pieces:
                async for piece in pieces:
                    yield piece
        elif offset < size:
            location = location or await self.fetcher.ensure(digest, repository_id=row.id)
            async for piece in self._store.read(location, start=offset, length=size - offset):
                yield piece

    async def mount_blob(self, repository: str, digest: str, *, source: str) -> bool:
        async with self._db.transaction() as conn:
            origin = await catalog.repository(conn, source)
            if origin is None or not await catalog.lock_linked_blobs(conn, origin.id, [digest]):
                return False
            if await catalog.homeless(conn, [digest]) or await catalog.unproven(conn, origin.id, [digest]):
                return False
            target = _existing(await catalog.ensure_repository(conn, repository), repository)
            await catalog.link_blob(conn, target.id, digest)
        return True

    async def push_blob(self, repository: str, digest: str, *, size: int, chunks: AsyncIterable[bytes]) -> None:
        await self._receive(repository, digest, size=size, chunks=chunks)

    async def receive_blob(self, repository: str, *, size: int, chunks: AsyncIterable[bytes]) -> str:
        """Store a blob whose digest shows only when it is here; returns it. Raises DigestInvalid for another size."""
        return await self._receive(repository, None, size=size, chunks=chunks)

    async def _receive(self, repository: str, digest: str | None, *, size: int, chunks: AsyncIterable[bytes]) -> str:
        if digest is not None:
            digests.parse(digest)
        async with self._db.transaction() as conn:
            target = _existing(await catalog.ensure_repository(conn, repository), repository)
        found = await receive_blob(
            self._db,
            self._store,
            repository_id=target.id,
            digest=digest,
            chunks=chunks,
            now=self._clock(),
            lease=self._lease,
            size=size,
        )
        if found is None:
            called = digest or "the blob"
            raise DigestInvalid(f"The bytes of {called} broke off.", hint="Nothing was stored; send the blob again.")
        return found

    async def push_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
        manifest = manifests.parse(body, media_type)
        by_digest = digests.is_digest(reference)
        digest = digests.of_bytes(body, digests.parse(reference).algorithm if by_digest else "sha256")
        if by_digest and digest != reference:
            raise DigestInvalid(f"The manifest is {digest}, not {reference}.")
        if not by_digest:
            references.check_tag(reference)
        tag = None if by_digest else reference
        documents = await read_documents(
            self._db, self._store, self.fetcher, repository=repository, manifest=manifest, tags=[tag]
        )
        async with self._db.transaction() as conn:
            target = _existing(await catalog.ensure_repository(conn, repository), repository)
            receipt = await record.put_manifest(
                conn,
                repository=target,
                tag=tag,
                manifest=manifest,
                digest=digest,
                documents=documents,
                pushed_by=self._principal,
            )
            await arrived(
                conn,
                repository=target,
                receipt=receipt,
                manifest=manifest,
                documents=documents,
                pushed_by=self._principal,
                now=self._clock(),
            )
        return digest

    async def delete_tag(self, repository: str, tag: str) -> bool:
        async with self._db.transaction() as conn:
            row = await catalog.repository(conn, repository)
            if row is None or await catalog.tag_digest(conn, row.id, tag) is None:
                return False
            await removal.delete_tag(conn, row, tag, self._principal)
        return True

    async def delete_manifest(self, repository: str, digest: str) -> bool:
        async with self._db.transaction() as conn:
            row = await catalog.repository(conn, repository)
            if row is None or await catalog.manifest_in(conn, row.id, digest) is None:
                return False
            await removal.delete_manifest(conn, row, digest, self._principal)
        return True

    async def referrers(self, repository: str, digest: str, *, artifact_type: str | None = None) -> list[Descriptor]:
        async with self._db.reading() as conn:
            row = await catalog.repository(conn, repository)
            if row is None:
                return []
            names = await queries.referrer_digests(conn, row.id, digest)
            rows = await catalog.manifests_in(conn, row.id, names)
        found = [referrers.descriptor_for(manifests.parse(r.body, r.media_type), r.digest) for r in rows]
        return sorted(
            (d for d in found if artifact_type in (None, d.artifact_type)), key=lambda descriptor: descriptor.digest
        )

    async def may_leave(self, repository: str, digests: Collection[str], *, root: str) -> frozenset[str]:
        """Which of these manifests may go out beside a version: what the gateway shows to readers of it."""
        async with self._db.reading() as conn:
            row = await catalog.repository(conn, repository)
            if row is None or not digests:
                return frozenset()
            return await queries.may_leave(conn, row.id, digests, root=root, now=self._clock())

    async def listed(self, project: str, *, repository: str | None = None) -> list[Listed]:
        """Every tag of a project, or of one repository of it, and the numbers of its deleted versions."""
        now = self._clock()
        async with self._db.reading() as conn:
            rows = await queries.depot_tags(conn, project, repository=repository, now=now)
            evidence = await queries.depot_evidence(conn, project, repository=repository, now=now)
        found = []
        for row in rows:
            admitted = row.admitted
            if admitted is None and not row.deleted:
                admitted = await self._admitted(row.repository_id, row.digest, now)
            found.append(
                Listed(
                    repository=row.repository,
                    tag=row.tag,
                    digest=row.digest,
                    labels={str(name): str(value) for name, value in row.labels.items()},
                    aliases=frozenset(row.aliases),
                    admitted=admitted,
                    deleted=row.deleted,
                    evidence=evidence.get((row.repository, row.digest), frozenset()),
                )
            )
        return found

    async def _admitted(self, repository_id: int, digest: str, now: datetime) -> bool:
        try:
            async with self._db.transaction() as conn:
                return (await verdict_of(conn, repository_id, digest, now)).admitted
        except ManifestUnknown:
            return False

    async def admitted(self, repository: str, digest: str) -> bool | None:
        """What our gate says about a manifest that we hold too; None when we do not."""
        async with self._db.reading() as conn:
            row = await catalog.repository(conn, repository)
            held = row is not None and await catalog.manifest_in(conn, row.id, digest) is not None
        return await self._admitted(row.id, digest, self._clock()) if row is not None and held else None

    async def held(self, repository: str, wanted: Collection[str]) -> frozenset[str]:
        """Which of these manifests the repository holds."""
        async with self._db.reading() as conn:
            return await queries.manifests_held(conn, repository, wanted)

    async def close(self) -> None:
        """Nothing is opened here: database and store belong to whoever handed them in."""


def _existing(row: RepositoryRow | None, repository: str) -> RepositoryRow:
    if row is None:
        raise NameUnknown(
            f"There is no project '{repository.partition('/')[0]}'.", hint="berth project create makes it."
        )
    return row


def _page(items: list[str], limit: int) -> Page[str]:
    return Page(items[:limit], items[limit - 1] if len(items) > limit else None)
