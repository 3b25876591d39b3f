"""Remove what nothing needs: untracked manifests, unused links, then blobs without links (design §5).

Pushes go on meanwhile. Each blob is judged under a lock of its row and of its digest: a manifest PUT holds the row
`FOR SHARE`, an upload of the same digest waits for the digest's lock. Bytes go only after `deleting` is committed, so a
crash leaves a marked row that the next run finishes, never a live row without bytes.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog

from berth.cleanup import queries
from berth.jobs.context import JobContext

NAME = "collect_garbage"
QUEUE = "short"
EVERY = "17 * * * *"

BATCH = 500
log = structlog.get_logger(__name__)


async def run(context: JobContext, **_: Any) -> None:
    """One pass. Safe to run twice and beside another run."""
    now = context.now()
    grace = timedelta(seconds=context.settings.blob_lease_seconds)
    async with context.db.transaction() as conn:
        manifests = await queries.drop_untracked_manifests(conn, before=now - grace, limit=BATCH)
    async with context.db.transaction() as conn:
        links = await queries.drop_unused_links(conn, before=now - grace, limit=10 * BATCH)
    removed = freed = 0
    async with context.db.reading() as conn:
        candidates = await queries.blobs_without_links(conn, now=now, limit=10 * BATCH)
    for digest in candidates:
        size = await remove_blob(context, digest)
        removed += size is not None
        freed += size or 0
    orphans = await _remove_orphans(context, grace.total_seconds())
    if manifests or links or removed or orphans:
        log.info(
            "garbage_collected", manifests=manifests, links=links, blobs=removed, bytes=freed, orphan_files=orphans
        )


async def remove_blob(context: JobContext, digest: str) -> int | None:
    """Remove one blob if still nothing needs it; returns its size in bytes, or None when it stays."""
    async with context.db.transaction() as conn:
        marked = await queries.mark_deleting(conn, digest, now=context.now())
    if marked is None:
        return None
    location, size = marked
    async with context.db.transaction() as conn:
        # An upload of this digest waits for this lock, or has brought the blob back to life before we got it.
        if not await queries.still_deleting(conn, digest, location):
            return None
        if location is not None:
            await context.store.delete(location)
        await queries.drop_blob(conn, digest)
    return size


async def _remove_orphans(context: JobContext, age_seconds: float) -> int:
    """Files that a crash left between the rename and the commit: in the depot, but in no row."""
    listing = getattr(context.store, "blobs_older_than", None)
    if listing is None:
        return 0
    removed = 0
    async for orphan in listing(age_seconds):
        async with context.db.reading() as conn:
            known = await queries.known_location(conn, orphan.location)
        if known:
            continue
        async with context.db.transaction() as conn:
            # Under the digest's lock no upload can bring these bytes to life between the question and the removal.
            await queries.lock_digest(conn, orphan.digest)
            if not await queries.known_location(conn, orphan.location):
                await context.store.delete(orphan.location)
                removed += 1
    return removed
