"""Which versions belong where, and where are they? SQL in, facts out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True)
class Published:
    """A version that is to be published, with what decides where to."""

    version_id: int
    version: str
    state: str
    repository: str
    project: str
    home: str
    policy: Mapping[str, Any]


@dataclass(frozen=True)
class Placement:
    """One place of one version."""

    id: int
    version_id: int
    version: str
    digest: str
    registry: str
    repository: str
    state: str
    error: str | None
    bytes: int
    attempts: int
    at: datetime
    found: bool


async def versions_of(conn: AsyncConnection, repository_id: int, root: str) -> list[Published]:
    """Every version number of a digest in one repository, deleted ones too."""
    rows = await conn.execute(
        text(
            "select v.id as version_id, v.version, v.state, r.name as repository, p.name as project, p.home, p.policy "
            "from versions v join repositories r on r.id = v.repository_id join projects p on p.id = r.project_id "
            "where v.repository_id = :repository and v.digest = :root order by v.id"
        ),
        {"repository": repository_id, "root": root},
    )
    return [Published(**row._mapping) for row in rows]


async def version_id(conn: AsyncConnection, repository: str, digest: str, version: str) -> tuple[int, int] | None:
    """(version id, repository id) of a version that is not deleted."""
    row = (
        await conn.execute(
            text(
                "select v.id, v.repository_id from versions v join repositories r on r.id = v.repository_id "
                "where r.name = :repository and v.digest = :digest and v.version = :version and v.state <> 'deleted'"
            ),
            {"repository": repository, "digest": digest, "version": version},
        )
    ).one_or_none()
    return None if row is None else (row[0], row[1])


async def lock_admitted(conn: AsyncConnection, repository_id: int, root: str) -> bool:
    """The stored verdict, held until the transaction ends: nobody decides otherwise meanwhile."""
    admitted = await conn.scalar(
        text("select admitted from verdicts where repository_id = :repository and root = :root for share"),
        {"repository": repository_id, "root": root},
    )
    return bool(admitted)


_PLACEMENTS = (
    "select l.id, l.version_id, v.version, v.digest, l.registry, l.repository, l.state, l.error, l.bytes, l.attempts, "
    "l.at, l.found from placements l join versions v on v.id = l.version_id "
)


async def placements_of(conn: AsyncConnection, repository_id: int, root: str) -> list[Placement]:
    """Where a digest was published to, under any of its numbers."""
    rows = await conn.execute(
        text(_PLACEMENTS + "where v.repository_id = :repository and v.digest = :root order by l.registry, l.id"),
        {"repository": repository_id, "root": root},
    )
    return [Placement(**row._mapping) for row in rows]


async def placements_of_version(conn: AsyncConnection, version: int) -> list[Placement]:
    """Where one version was published to."""
    rows = await conn.execute(
        text(_PLACEMENTS + "where l.version_id = :version order by l.registry, l.id"), {"version": version}
    )
    return [Placement(**row._mapping) for row in rows]


async def placed_at(conn: AsyncConnection, *, registry: str, repository: str, digest: str) -> list[tuple[int, int]]:
    """(placement, repository here) of the versions of a digest that are at a place."""
    rows = await conn.execute(
        text(
            "select l.id, v.repository_id from placements l join versions v on v.id = l.version_id "
            "where l.registry = :registry and l.repository = :repository and v.digest = :digest "
            "and l.state in ('published','exposed','failed') order by l.id"
        ),
        {"registry": registry, "repository": repository, "digest": digest},
    )
    return [(row[0], row[1]) for row in rows]


async def intend(
    conn: AsyncConnection, *, version: int, registry: str, repository: str, now: datetime, error: str | None
) -> int:
    """A version is to be at a place: its row, pending unless it is there already."""
    made = await conn.scalar(
        text(
            "insert into placements (version_id, registry, repository, error, at) "
            "values (:version, :registry, :repository, :error, :now) "
            "on conflict (version_id, registry, repository) do update set "
            "state = case when placements.state in ('published','pending') then placements.state else 'pending' end, "
            "error = excluded.error, at = excluded.at returning id"
        ),
        {"version": version, "registry": registry, "repository": repository, "error": error, "now": now},
    )
    return int(made or 0)


async def settle(
    conn: AsyncConnection, placement: int, *, state: str, now: datetime, error: str | None = None, sent: int = 0
) -> None:
    """What became of a try to publish or to withdraw."""
    await conn.execute(
        text(
            "update placements set state = :state, error = :error, at = :now, bytes = bytes + :sent, "
            "found = found and :state <> 'published', "
            "attempts = case when :state in ('failed','exposed') then attempts + 1 else 0 end where id = :id"
        ),
        {"id": placement, "state": state, "error": error, "now": now, "sent": sent},
    )


async def found_there(conn: AsyncConnection, *, version: int, registry: str, repository: str, now: datetime) -> None:
    """A version was at a place before it was known here. It is not ours to take away, unless we publish there too."""
    await conn.execute(
        text(
            "insert into placements (version_id, registry, repository, state, found, at) "
            "values (:version, :registry, :repository, 'published', true, :now) "
            "on conflict (version_id, registry, repository) do update set state = 'published', error = null, "
            "found = placements.found or placements.state <> 'published', at = excluded.at"
        ),
        {"version": version, "registry": registry, "repository": repository, "now": now},
    )


async def about_to_go(conn: AsyncConnection, placement: int, *, now: datetime) -> None:
    """A copy is about to be taken back: from now on nobody counts on it."""
    await conn.execute(
        text("update placements set state = 'exposed', error = :error, at = :now where id = :id"),
        {"id": placement, "error": "It is about to be taken back.", "now": now},
    )


async def waiting(conn: AsyncConnection, *, before: datetime, limit: int) -> list[tuple[int, str, str]]:
    """(repository, root, state) of what is not as it should be and was last tried before then."""
    rows = await conn.execute(
        text(
            "select v.repository_id, v.digest, min(l.state) from placements l join versions v on v.id = l.version_id "
            "where l.state in ('pending','failed','exposed') "
            "and l.at < :before - least(l.attempts, 12) * interval '10 minutes' "
            "group by 1, 2 order by min(l.at) limit :limit"
        ),
        {"before": before, "limit": limit},
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def outlived(conn: AsyncConnection, *, now: datetime, limit: int) -> list[tuple[int, str]]:
    """(repository, root) of what is published although its verdict denies, or has to be asked for again."""
    rows = await conn.execute(
        text(
            "select distinct v.repository_id, v.digest from placements l join versions v on v.id = l.version_id "
            "join repositories r on r.id = v.repository_id join projects p on p.id = r.project_id "
            "left join verdicts d on d.repository_id = v.repository_id and d.root = v.digest "
            "where l.state = 'published' and not l.found "
            "and (d.root is null or not d.admitted or d.valid_until <= :now "
            "or d.policy_hash <> p.policy_hash or d.trust_hash <> p.trust_hash) limit :limit"
        ),
        {"now": now, "limit": limit},
    )
    return [(row[0], row[1]) for row in rows]


async def unplaced(conn: AsyncConnection, *, limit: int) -> list[tuple[int, str]]:
    """(repository, root) of what is admitted but has no place at its project's home: the home was set later."""
    rows = await conn.execute(
        text(
            "select distinct v.repository_id, v.digest from projects p join repositories r on r.project_id = p.id "
            "join versions v on v.repository_id = r.id and v.state <> 'deleted' "
            "join verdicts d on d.repository_id = r.id and d.root = v.digest and d.admitted "
            "where p.home <> 'depot' and not exists "
            "(select 1 from placements l where l.version_id = v.id and l.registry = p.home) limit :limit"
        ),
        {"limit": limit},
    )
    return [(row[0], row[1]) for row in rows]
