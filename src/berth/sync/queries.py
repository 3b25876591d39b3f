"""SQL of the depot seen as a registry."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


async def repository_names(conn: AsyncConnection, *, after: str, limit: int) -> list[str]:
    """Names of repositories that hold a manifest, in the C collation's order."""
    rows = await conn.scalars(
        text(
            'select r.name from repositories r where r.name collate "C" > :after and exists '
            "(select 1 from repository_manifests rm where rm.repository_id = r.id) "
            'order by r.name collate "C" limit :limit'
        ),
        {"after": after, "limit": limit},
    )
    return list(rows)


async def tag_names(conn: AsyncConnection, repository_id: int, *, after: str, limit: int) -> list[str]:
    """Stored tags in ASCII order."""
    rows = await conn.scalars(
        text("select name from tags where repository_id = :repository and name > :after order by name limit :limit"),
        {"repository": repository_id, "after": after, "limit": limit},
    )
    return list(rows)


async def referrer_digests(conn: AsyncConnection, repository_id: int, subject: str) -> list[str]:
    """Digests of the manifests whose subject this is."""
    rows = await conn.scalars(
        text("select digest from repository_manifests where repository_id = :r and subject = :s order by digest"),
        {"r": repository_id, "s": subject},
    )
    return list(rows)
