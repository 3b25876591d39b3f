"""Which events of other registries need no longer be remembered? Those that no repeated delivery can still mean."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import structlog

from berth.jobs.context import JobContext
from berth.sync.events import queries

NAME: Final = "forget_registry_events"
QUEUE: Final = "short"
EVERY: Final = "29 * * * *"

KEEP: Final = timedelta(days=14)
BATCH: Final = 10_000
log = structlog.get_logger(__name__)


async def run(context: JobContext, **_: Any) -> None:
    """Removes events that came two weeks ago, some at a time."""
    removed = 0
    while True:
        async with context.db.transaction() as conn:
            gone = await queries.forget_old(conn, before=context.now() - KEEP, limit=BATCH)
        removed += gone
        if gone < BATCH:
            break
    if removed:
        log.info("registry_events_forgotten", count=removed)
