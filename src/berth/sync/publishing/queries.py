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
    publishing: Mapping[str, Any]
    policy: Mapping[str, Any]


@dataclass(frozen=True)
class Placement:
    """One place of one version.

    Attributes:
        bytes: what was sent there, in all tries; `bytes_done` of `bytes_total` is how far the last one got.
        held: somebody stopped it.
    """

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
    started_at: datetime | None
    blobs_done: int
    blobs_total: int
    bytes_done: int
    bytes_total: int
    next_try_at: datetime | None
    held: bool


async def versions_of(conn: AsyncConnection, repository_id: int, root: str) -> list[Published]:
    """Every version number of a digest in one repository, deleted ones too."""
    rows = await conn.execute(
        text(
            "select v.id as version_id, v.version, v.state, r.name as repository, p.name as project, p.home, "
            "p.publishing, p.policy "
            "from versions v join repositories r on r.id = v.repository_id join projects p on p.id = r.project_id "
            "where v.repository_id = :repository and v.digest = :root order by v.id"
        ),
        {"repository": repository_id, "root": root},
    )
    return [Published(**row._mapping) for row in rows]


async def is_open(conn: AsyncConnection, project: str) -> bool:
    """Whether a project's policy has the preset `open`."""
    query = text("select policy->>'preset' = 'open' from projects where name = :project")
    return bool(await conn.scalar(query, {"project": project}))


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
    "l.at, l.found, l.started_at, l.blobs_done, l.blobs_total, l.bytes_done, l.bytes_total, l.next_try_at, l.held "
    "from placements l join versions v on v.id = l.version_id "
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


async def withdrawn_from(
    conn: AsyncConnection, registry: str, *, digest: str | None = None
) -> dict[tuple[str, str], int]:
    """(repository there, digest) → repository here, of versions (or of one) that were taken back from a registry."""
    rows = await conn.execute(
        text(
            "select l.repository, v.digest, v.repository_id from placements l join versions v on v.id = l.version_id "
            "where l.registry = :registry and l.state = 'withdrawn' "
            "and (cast(:digest as text) is null or v.digest = :digest)"
        ),
        {"registry": registry, "digest": digest},
    )
    return {(row.repository, row.digest): row.repository_id for row in rows}


async def intend(
    conn: AsyncConnection, *, version: int, registry: str, repository: str, now: datetime, error: str | None
) -> tuple[int, bool, int]:
    """A version is to be at a place: (its row, pending unless it is there already or held; held; failures so far)."""
    made = (
        await conn.execute(
            text(
                "insert into placements (version_id, registry, repository, error, at) "
                "values (:version, :registry, :repository, :error, :now) "
                "on conflict (version_id, registry, repository) do update set "
                "state = case when placements.held or placements.state = 'published' then placements.state "
                "else 'pending' end, error = case when placements.held then placements.error else excluded.error end, "
                "at = excluded.at returning id, held, attempts"
            ),
            {"version": version, "registry": registry, "repository": repository, "error": error, "now": now},
        )
    ).one()
    return made[0], made[1], made[2]


async def begin(conn: AsyncConnection, placement: int, *, now: datetime) -> None:
    """A try begins: what is done is counted anew, since the target says what it has."""
    await conn.execute(
        text(
            "update placements set started_at = :now, next_try_at = null, blobs_done = 0, blobs_total = 0, "
            "bytes_done = 0, bytes_total = 0 where id = :id"
        ),
        {"id": placement, "now": now},
    )


async def add_plan(conn: AsyncConnection, placement: int, *, blobs: int, size: int) -> None:
    """A try found so much to do."""
    await conn.execute(
        text(
            "update placements set blobs_total = blobs_total + :blobs, bytes_total = bytes_total + :size where id = :id"
        ),
        {"id": placement, "blobs": blobs, "size": size},
    )


async def note_progress(conn: AsyncConnection, placement: int, *, blobs: int, done: int, sent: int) -> bool:
    """How far the try is: blobs that are whole there, bytes done with those on the way, bytes just sent for good.

    Returns:
        Whether somebody stopped it; what was removed is stopped too.
    """
    held = await conn.scalar(
        text(
            "update placements set blobs_done = greatest(blobs_done, :blobs), "
            "bytes_done = least(greatest(bytes_done, :done), bytes_total), bytes = bytes + :sent "
            "where id = :id returning held"
        ),
        {"id": placement, "blobs": blobs, "done": done, "sent": sent},
    )
    return held is not False


async def hold(conn: AsyncConnection, version: int, *, registry: str | None, held: bool, error: str | None) -> int:
    """Stop or release the places of a version that are not settled; how many that changed."""
    changed = await conn.execute(
        text(
            "update placements set held = :held, error = :error, next_try_at = null, "
            "state = case when :held then 'failed' else 'pending' end "
            "where version_id = :version and (cast(:registry as text) is null or registry = :registry) "
            "and state in ('pending','failed') and held <> :held"
        ),
        {"version": version, "registry": registry, "held": held, "error": error},
    )
    return int(changed.rowcount)


async def settle(
    conn: AsyncConnection,
    placement: int,
    *,
    state: str,
    now: datetime,
    error: str | None = None,
    next_try: datetime | None = None,
) -> None:
    """What became of a try to publish or to withdraw."""
    await conn.execute(
        text(
            "update placements set state = :state, error = :error, at = :now, next_try_at = :next, "
            "found = found and :state <> 'published', "
            "attempts = case when :state in ('failed','exposed') then attempts + 1 else 0 end where id = :id"
        ),
        {"id": placement, "state": state, "error": error, "now": now, "next": next_try},
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
            "where l.state in ('pending','failed','exposed') and not l.held "
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
