"""Which finished jobs need no longer be remembered? Keeps the queue's tables small (design §5)."""

from __future__ import annotations

from typing import Final

import structlog

from berth.db import queue
from berth.jobs.context import JobContext

NAME: Final = "delete_old_jobs"
QUEUE: Final = "short"
EVERY: Final = "17 * * * *"

KEEP_HOURS: Final = 24
# Long enough for somebody to look at it after a holiday.
KEEP_FAILED_HOURS: Final = 14 * 24

log = structlog.get_logger(__name__)


async def run(context: JobContext) -> None:
    """Removes jobs that succeeded a day ago or failed two weeks ago."""
    async with context.db.transaction() as conn:
        removed = await queue.delete_finished(
            conn, older_than_hours=KEEP_HOURS, failed_older_than_hours=KEEP_FAILED_HOURS
        )
    if removed:
        log.info("jobs.deleted", count=removed)
