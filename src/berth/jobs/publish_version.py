"""Bring an admitted version to its project's home and replicas (design §1.5)."""

from __future__ import annotations

from typing import Final

from berth.jobs.context import JobContext
from berth.sync.publishing.publish import publish

NAME: Final = "publish_version"
QUEUE: Final = "publish"


async def run(context: JobContext, *, repository_id: int, root: str) -> None:
    """Copy what is missing; a place that fails for now is tried again with the job, and later by schedule_sync."""
    await publish(
        context.db, context.places, repository_id=repository_id, root=root, now=context.now, sealer=context.sealer
    )
