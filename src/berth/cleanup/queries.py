"""SQL of clean-up: what is referenced by nothing, judged and marked under locks."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# A manifest stays while a tag or an existing version of its repository reaches it, while something that stays is its
# subject, or while it is evidence of its subject there.
_TRACKED = (
    "exists (select 1 from closure c where c.repository_id = rm.repository_id and c.digest = rm.digest and ("
    "exists (select 1 from tags t where t.repository_id = c.repository_id and t.digest = c.root) or "
    "exists (select 1 from versions v where v.repository_id = c.repository_id and v.digest = c.root "
    "and v.state <> 'deleted')))"
)


async def drop_untracked_manifests(conn: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Unlink manifests that were pushed before `before` and that no tag or version reaches; returns how many."""
    rows = (
        await conn.execute(
            text(
                "select rm.repository_id, rm.digest from repository_manifests rm where rm.pushed_at < :before "
                f"and not {_TRACKED} "
                "and not exists (select 1 from repository_manifests s where s.repository_id = rm.repository_id "
                "and s.digest = coalesce(rm.evidence_for, rm.subject)) "
                "limit :limit for update of rm skip locked"
            ),
            {"before": before, "limit": limit},
        )
    ).all()
    for repository_id, digest in rows:
        here = {"repository": repository_id, "digest": digest}
        await conn.execute(text("delete from closure where repository_id = :repository and root = :digest"), here)
        await conn.execute(text("delete from verdicts where repository_id = :repository and root = :digest"), here)
        await conn.execute(
            text("delete from repository_manifests where repository_id = :repository and digest = :digest"), here
        )
    return len(rows)


async def drop_unused_links(conn: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Unlink blobs that no manifest of their repository names and that nobody linked or leased since `before`."""
    rows = (
        await conn.execute(
            text(
                "select rb.repository_id, rb.digest from repository_blobs rb join blobs b on b.digest = rb.digest "
                "where rb.linked_at < :before and b.lease_until < now() and not exists (select 1 from closure c "
                "where c.repository_id = rb.repository_id and c.digest = rb.digest) "
                "limit :limit for update of b skip locked"
            ),
            {"before": before, "limit": limit},
        )
    ).all()
    removed = 0
    for repository_id, digest in rows:
        # Asked again now that the blob's row is locked: a manifest PUT may have committed in between.
        result = await conn.execute(
            text(
                "delete from repository_blobs rb where rb.repository_id = :repository and rb.digest = :digest "
                "and not exists (select 1 from closure c where c.repository_id = rb.repository_id "
                "and c.digest = rb.digest)"
            ),
            {"repository": repository_id, "digest": digest},
        )
        removed += result.rowcount
    return removed


_NEEDED = (
    "exists (select 1 from repository_blobs rb where rb.digest = b.digest) "
    "or exists (select 1 from evidence e where e.report = b.digest)"
)


async def blobs_without_links(conn: AsyncConnection, *, now: datetime, limit: int) -> list[str]:
    """Digests of blobs that nothing needs and whose lease has run out, and of removals that were interrupted."""
    rows = await conn.scalars(
        text(
            f"select digest from blobs b where (lease_until < :now and not ({_NEEDED})) or state = 'deleting' limit :n"
        ),
        {"now": now, "n": limit},
    )
    return list(rows)


async def mark_deleting(conn: AsyncConnection, digest: str, *, now: datetime) -> tuple[str | None, int] | None:
    """Mark a blob for removal if it is still not needed; returns (location, size), or None when it stays.

    Without a location its bytes are not in the depot, and only the row goes.
    """
    await conn.execute(text("select digest from blobs where digest = :digest for update"), {"digest": digest})
    row = (
        await conn.execute(
            text(
                "update blobs b set state = 'deleting' where digest = :digest and (state = 'deleting' "
                f"or (lease_until < :now and not ({_NEEDED}))) returning location, size"
            ),
            {"digest": digest, "now": now},
        )
    ).one_or_none()
    return None if row is None else (row.location, row.size)


async def lock_digest(conn: AsyncConnection, digest: str) -> None:
    """Hold off uploads of this digest until the transaction ends (the gateway takes the same lock)."""
    await conn.execute(text("select pg_advisory_xact_lock(hashtextextended(:digest, 0))"), {"digest": digest})


async def still_deleting(conn: AsyncConnection, digest: str, location: str | None) -> bool:
    """Take the digest's lock, then tell whether the blob is still marked and still lies there."""
    await lock_digest(conn, digest)
    found = await conn.scalar(
        text(
            "select 1 from blobs where digest = :digest and location is not distinct from cast(:location as text) "
            "and state = 'deleting' for update"
        ),
        {"digest": digest, "location": location},
    )
    return found is not None


async def drop_blob(conn: AsyncConnection, digest: str) -> None:
    await conn.execute(text("delete from blobs where digest = :digest"), {"digest": digest})


async def known_location(conn: AsyncConnection, location: str) -> bool:
    return (
        await conn.scalar(text("select 1 from blobs where location = :location"), {"location": location})
    ) is not None


async def drop_stale_uploads(conn: AsyncConnection, *, before: datetime) -> list[str]:
    """End upload sessions that were not touched since `before`; returns where their bytes lie."""
    rows = await conn.scalars(
        text("delete from uploads where updated_at < :before returning location"), {"before": before}
    )
    return list(rows)


async def known_upload(conn: AsyncConnection, location: str) -> bool:
    return (
        await conn.scalar(text("select 1 from uploads where location = :location"), {"location": location})
    ) is not None
