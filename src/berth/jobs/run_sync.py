"""Carry out one run of a sync rule, or one import; a run whose worker died goes on where its journal ends."""

from __future__ import annotations

from typing import Final

from berth.jobs.context import JobContext
from berth.sync import runs
from berth.sync.importing import run as imports
from berth.sync.journal import queries

NAME: Final = "run_sync"
QUEUE: Final = "publish"


async def run(context: JobContext, *, run_id: int) -> None:
    """Plan, then do item by item; what went wrong stands in the run."""
    async with context.db.reading() as conn:
        found = await queries.run_by_id(conn, run_id)
    if found is not None and found.registry is not None:
        await imports.carry_out(context.db, context.store, context.places, run_id, now=context.now)
    else:
        await runs.carry_out(context.db, context.places, run_id, now=context.now, sealer=context.sealer)
