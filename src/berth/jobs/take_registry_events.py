"""What follows from the events that another registry told us?"""

from __future__ import annotations

from typing import Final

from berth.jobs.context import JobContext
from berth.sync.events.arrive import LATER_SECONDS, TAKE, take_up
from berth.sync.events.take import take

NAME: Final = TAKE
QUEUE: Final = "short"


async def run(context: JobContext, *, registry_id: int) -> None:
    """All that wait; those for a rule that is busy are looked at again in a while."""
    if await take(context.db, context.places, registry_id, now=context.now):
        async with context.db.transaction() as conn:
            await take_up(conn, registry_id, delay_seconds=LATER_SECONDS)
