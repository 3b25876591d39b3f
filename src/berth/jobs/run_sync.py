"""Carry out one run of a sync rule; a run whose worker died goes on where its journal ends."""

from __future__ import annotations

from typing import Final

from berth.jobs.context import JobContext
from berth.sync.runs import carry_out

NAME: Final = "run_sync"
QUEUE: Final = "publish"


async def run(context: JobContext, *, run_id: int) -> None:
    """Plan, then copy item by item; what went wrong stands in the run."""
    await carry_out(context.db, context.places, run_id, now=context.now)
