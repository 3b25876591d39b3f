"""End uploads that nobody has touched for long, and files of uploads that no row knows (a crash, a cancelled POST)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog

from berth.cleanup import queries
from berth.jobs.context import JobContext
from berth.sync.cache import queries as cache
from berth.sync.resuming import queries as resuming

NAME = "remove_stale_uploads"
QUEUE = "short"
EVERY = "43 * * * *"
SILENT_FETCH = timedelta(minutes=10)

log = structlog.get_logger(__name__)


async def run(context: JobContext, **_: Any) -> None:
    """One pass. Idempotent."""
    age = timedelta(seconds=context.settings.upload_max_age_seconds)
    async with context.db.transaction() as conn:
        locations = await queries.drop_stale_uploads(conn, before=context.now() - age)
        # A fetch whose process died and that nobody asked for again.
        locations += await cache.drop_silent_fetches(conn, before=context.now() - SILENT_FETCH)
        # Of ours at other registries, those that nobody goes on with; the registries end them likewise.
        await resuming.forget_old(conn, before=context.now() - age)
    for location in locations:
        await context.store.delete(location)
    orphans = 0
    listing = getattr(context.store, "uploads_older_than", None)
    if listing is not None:
        async for location in listing(age.total_seconds()):
            async with context.db.reading() as conn:
                known = await queries.known_upload(conn, location) or await cache.known_fetch(conn, location)
            if not known:
                await context.store.delete(location)
                orphans += 1
    if locations or orphans:
        log.info("stale_uploads_removed", sessions=len(locations), orphan_files=orphans)
