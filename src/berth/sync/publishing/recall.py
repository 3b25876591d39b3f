"""What must be here again before copies elsewhere go? Whatever they alone hold; until then they stay (design §6)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import structlog

from berth.db.engine import Database
from berth.errors import BerthError
from berth.sync.cache import queries as blobs
from berth.sync.cache.fetcher import Fetcher
from berth.sync.publishing import queries

log = structlog.get_logger(__name__)


async def recall(
    db: Database, cache: Fetcher, placements: Collection[int], *, repository_id: int, root: str, now: datetime
) -> None:
    """Say that these copies are about to go, so that nobody counts on them, and have in the depot what they alone hold.

    Raises:
        BerthError: something could not be brought back; the copies say `exposed` and why, and must stay.
    """
    async with db.transaction() as conn:
        for placement in placements:
            await queries.about_to_go(conn, placement, now=now)
    async with db.reading() as conn:
        stranded = await blobs.stranded_by(conn, repository_id, root)
    try:
        for digest in stranded:
            await cache.ensure(digest)
    except BerthError as error:
        log.warning("removal_waits", root=root, code=error.code, message=error.message)
        why = f"It stays until its bytes, of which it is the only copy, are here again: {error}"
        async with db.transaction() as conn:
            for placement in placements:
                await queries.settle(conn, placement, state="exposed", now=now, error=why)
        raise
