"""Which versions do not say yet, in a form that can be searched, what they need? Fills `version_needs` for them.

Intake writes the needs of every new version; this is for versions that were there before, and for those that a server
of the previous release receives while an upgrade is on its way.
"""

from __future__ import annotations

from typing import Any, Final

import structlog

from berth.catalog.fitting import needs, queries
from berth.jobs.context import JobContext

NAME: Final = "record_needs"
QUEUE: Final = "short"
EVERY: Final = "* * * * *"

BATCH: Final = 500
BATCHES: Final = 100
log = structlog.get_logger(__name__)


async def run(context: JobContext, **_arguments: Any) -> None:
    """In short transactions, so that a crash loses one batch at most; what exceeds one run comes with the next."""
    done = 0
    for _ in range(BATCHES):
        async with context.db.transaction() as conn:
            found = await queries.unrecorded(conn, limit=BATCH)
            for row in found:
                hardware = needs.hardware_of(row.declared)
                await queries.record_needs(conn, row.version_id, row.repository_id, needs.rows_of(hardware))
        done += len(found)
        if len(found) < BATCH:
            break
    if done:
        log.info("needs.recorded", versions=done)
