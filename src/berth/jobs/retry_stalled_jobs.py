"""Which jobs were lost with their worker? Puts them back on the queue (design §5)."""

from __future__ import annotations

from typing import Final

import structlog

from berth.db import queue
from berth.jobs.context import JobContext

NAME: Final = "retry_stalled_jobs"
QUEUE: Final = "short"
EVERY: Final = "* * * * * 0,15,30,45"

# A worker says every ten seconds that it lives (procrastinate's heartbeat).
SILENT_SECONDS: Final = 30
MAX_ATTEMPTS: Final = 5

log = structlog.get_logger(__name__)


async def run(context: JobContext) -> None:
    """Puts back what silent workers held; gives a job up that took its worker down too often."""
    async with context.db.transaction() as conn:
        found = await queue.retry_stalled(conn, silent_seconds=SILENT_SECONDS, max_attempts=MAX_ATTEMPTS)
    for job_id in found.retried:
        log.warning("job.stalled", job_id=job_id, outcome="put back")
    for job_id in found.given_up:
        log.error("job.stalled", job_id=job_id, outcome="given up", attempts=MAX_ATTEMPTS)
