"""What is written down when a version has arrived at another registry? Its place, and its withdrawal if need be."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.db import queue
from berth.oci.version import from_tag, is_version_tag
from berth.sync.publishing import queries

# A job that fails for now is tried again by itself (jobs/runner.py), after that by schedule_sync.
JOB_RETRIES: Final = 5
FIRST_WAIT_SECONDS: Final = 5
RETRY_AFTER: Final = timedelta(minutes=10)


async def published(
    conn: AsyncConnection,
    *,
    repository: str,
    digest: str,
    tag: str,
    registry: str,
    target_repository: str,
    now: datetime,
) -> None:
    """A version of the depot is whole at a registry under its tag. Tags that are no version leave no record."""
    found = await queries.version_id(conn, repository, digest, from_tag(tag)) if is_version_tag(tag) else None
    if found is None:
        return
    version, repository_id = found
    placement, _, _ = await queries.intend(
        conn, version=version, registry=registry, repository=target_repository, now=now, error=None
    )
    await arrived(conn, placement, repository_id=repository_id, root=digest, now=now)


async def arrived(conn: AsyncConnection, placement: int, *, repository_id: int, root: str, now: datetime) -> None:
    """Settle a placement as published; when the verdict turned while bytes moved, have it withdrawn at once."""
    # Held until the commit: whoever decides otherwise later finds the placement, whoever did before is seen here.
    admitted = await queries.lock_admitted(conn, repository_id, root)
    await queries.settle(conn, placement, state="published", now=now)
    if not admitted:
        await queue.follow(conn, repository_id, root, admitted=False)


def next_try(failures: int, *, passing: bool, now: datetime) -> datetime:
    """When a place is tried again after so many failures before this one: with its job, then by schedule_sync."""
    if passing and failures < JOB_RETRIES:
        return now + timedelta(seconds=FIRST_WAIT_SECONDS * 2**failures)
    return now + RETRY_AFTER * (1 + min(failures + 1, 12))
