"""Which small documents is a manifest PUT decided with, and what do they say? Read before it is recorded."""

from __future__ import annotations

from collections.abc import Collection

from berth.adapters.stores.contract import BlobStore
from berth.catalog import classify
from berth.catalog import queries as catalog
from berth.db.engine import Database
from berth.oci.manifest import Manifest
from berth.sync.cache.fetcher import Fetcher


async def read_documents(
    db: Database,
    store: BlobStore,
    fetcher: Fetcher,
    *,
    repository: str,
    manifest: Manifest,
    tags: Collection[str | None],
) -> dict[str, bytes]:
    """Config (labels) and, of what may be evidence, every blob; by digest, as far as the repository has them.

    Raises:
        Unavailable: one of them is at a registry only, which does not give it now.
    """
    wanted = sorted({digest for tag in tags for digest in classify.documents_wanted(manifest, tag)})
    if not wanted:
        return {}
    async with db.reading() as conn:
        row = await catalog.repository(conn, repository)
        places = await catalog.linked_places(conn, row.id, wanted) if row is not None else {}
    whose = None if row is None else row.id
    found = {}
    for digest, (location, size) in places.items():
        if size <= classify.EVIDENCE_LIMIT:
            place = location if location is not None else await fetcher.ensure(digest, repository_id=whose)
            found[digest] = await store.read_all(place, limit=classify.EVIDENCE_LIMIT)
    return found
