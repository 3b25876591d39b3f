"""SQL of the uploads that broke off."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True)
class Owner:
    """Whose upload it is: one of the two."""

    run: int | None = None
    placement: int | None = None


@dataclass(frozen=True)
class Unfinished:
    """One upload that broke off."""

    repository: str
    digest: str
    session: bytes = field(repr=False)
    offset_bytes: int


_OWNED = "(run_id = cast(:run as bigint) or placement_id = cast(:placement as bigint)) "


def _ids(owner: Owner) -> dict[str, int | None]:
    return {"run": owner.run, "placement": owner.placement}


async def unfinished(conn: AsyncConnection, owner: Owner) -> list[Unfinished]:
    rows = await conn.execute(
        text("select repository, digest, session, offset_bytes from sync_uploads where " + _OWNED + "order by id"),
        _ids(owner),
    )
    return [Unfinished(**row._mapping) for row in rows]


async def session_of(conn: AsyncConnection, owner: Owner, repository: str, digest: str) -> bytes | None:
    """The sealed address of the session of one blob."""
    found = await conn.scalar(
        text("select session from sync_uploads where " + _OWNED + "and repository = :repository and digest = :digest"),
        {**_ids(owner), "repository": repository, "digest": digest},
    )
    return None if found is None else bytes(found)


async def keep(
    conn: AsyncConnection, owner: Owner, repository: str, digest: str, *, session: bytes, offset: int, now: datetime
) -> None:
    """Remember a session, or how far it is; nothing when its run or place is gone."""
    key = "run_id" if owner.run is not None else "placement_id"
    table = "sync_runs" if owner.run is not None else "placements"
    await conn.execute(
        text(
            f"insert into sync_uploads ({key}, repository, digest, session, offset_bytes, updated_at) "
            f"select o.id, :repository, :digest, :session, :offset, :now from {table} o "
            "where o.id = coalesce(cast(:run as bigint), cast(:placement as bigint)) "
            f"on conflict ({key}, repository, digest) do update set session = excluded.session, "
            "offset_bytes = excluded.offset_bytes, updated_at = excluded.updated_at"
        ),
        {
            **_ids(owner),
            "repository": repository,
            "digest": digest,
            "session": session,
            "offset": offset,
            "now": now,
        },
    )


async def forget(
    conn: AsyncConnection, owner: Owner, *, repository: str | None = None, digest: str | None = None
) -> None:
    """Forget one upload, or all of an owner."""
    await conn.execute(
        text(
            "delete from sync_uploads where " + _OWNED + "and (cast(:digest as text) is null "
            "or (repository = :repository and digest = :digest))"
        ),
        {**_ids(owner), "repository": repository, "digest": digest},
    )


async def forget_old(conn: AsyncConnection, *, before: datetime) -> int:
    """Forget what nobody went on with; registries have ended such sessions themselves. How many there were."""
    done = await conn.execute(text("delete from sync_uploads where updated_at < :before"), {"before": before})
    return int(done.rowcount)
