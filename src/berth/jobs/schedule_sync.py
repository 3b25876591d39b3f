"""What is due between registries? Starts scheduled rules, takes up lost runs and events, and settles misplaced copies.

Facts that change publish and withdraw at once (gates/verdicts.py). This finds the rest: verdicts that time alone turns,
places that failed, and versions that were admitted before their project got a home.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import structlog

from berth.db import queue
from berth.jobs.context import JobContext
from berth.sync import runs
from berth.sync.events import queries as events
from berth.sync.events.arrive import take_up
from berth.sync.journal import queries
from berth.sync.publishing import queries as placing
from berth.sync.publishing.publish import is_admitted
from berth.sync.publishing.record import RETRY_AFTER
from berth.sync.rules import next_time

NAME: Final = "schedule_sync"
QUEUE: Final = "short"
EVERY: Final = "* * * * *"

BATCH: Final = 100
# A run says every two seconds that it lives.
SILENT: Final = timedelta(minutes=2)
log = structlog.get_logger(__name__)


async def run(context: JobContext, **_: Any) -> None:
    """One look. Everything it starts is keyed, so looking twice starts nothing twice."""
    await _start_due(context)
    await _take_up_lost(context)
    await _settle_places(context)
    await _take_up_events(context)


async def _start_due(context: JobContext) -> None:
    now = context.now()
    async with context.db.transaction() as conn:
        for rule in await queries.due_rules(conn, now=now, limit=BATCH):
            if rule.schedule is not None:
                await queries.set_next_run(conn, rule.id, next_time(rule.schedule, now))
            run_id = await queries.insert_run(conn, rule_id=rule.id, kind="run", started_by="schedule")
            if run_id is None:
                log.info("sync_still_running", rule=rule.name)
                continue
            await runs.enqueue(conn, run_id)


async def _take_up_lost(context: JobContext) -> None:
    async with context.db.transaction() as conn:
        for run_id in await queries.silent_runs(conn, before=context.now() - SILENT, limit=BATCH):
            await runs.enqueue(conn, run_id)


async def _settle_places(context: JobContext) -> None:
    now = context.now()
    async with context.db.reading() as conn:
        waiting = await placing.waiting(conn, before=now - RETRY_AFTER, limit=BATCH)
        outlived = await placing.outlived(conn, now=now, limit=BATCH)
        unplaced = await placing.unplaced(conn, limit=BATCH)
    for repository_id, root in {(r, d) for r, d, _ in waiting} | set(outlived) | set(unplaced):
        async with context.db.transaction() as conn:
            # Asking decides again where that is due; the answer says which way it has to go.
            admitted = await is_admitted(conn, repository_id, root, now)
            if not admitted or (repository_id, root) not in outlived:
                await queue.follow(conn, repository_id, root, admitted=admitted)
    if waiting or outlived or unplaced:
        log.info("places_due", waiting=len(waiting), outlived=len(outlived), unplaced=len(unplaced))


async def _take_up_events(context: JobContext) -> None:
    """Events whose registry could not be asked when they came."""
    async with context.db.transaction() as conn:
        for registry_id in await events.registries_waiting(conn, before=context.now() - RETRY_AFTER):
            await take_up(conn, registry_id)
