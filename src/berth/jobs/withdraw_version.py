"""Take a denied version back from where it was published (design §6 "Verdict")."""

from __future__ import annotations

from typing import Final

from berth.jobs.context import JobContext
from berth.sync.publishing.withdraw import withdraw

NAME: Final = "withdraw_version"
QUEUE: Final = "publish"


async def run(context: JobContext, *, repository_id: int, root: str) -> None:
    """Remove its names or content, as the policy says; where that fails its placement says `exposed`."""
    await withdraw(context.db, context.places, context.cache, repository_id=repository_id, root=root, now=context.now)
