"""SQL of the cache: where the bytes of a blob are, who is fetching it, and what may leave the depot."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True)
class Held:
    """A live blob; `location` is None while its bytes are not in the depot.

    `scope`: the project that has yet to show that it holds it; its own registries are asked then, and nothing else.
    """

    digest: str
    size: int
    location: str | None
    scope: int | None = None


@dataclass(frozen=True)
class Place:
    """A repository of a registry that holds a blob. `redirect`: readers may be sent there."""

    registry: str
    repository: str
    redirect: bool


async def held(conn: AsyncConnection, digest: str) -> Held | None:
    row = (
        await conn.execute(
            text("select digest, size, location from blobs where digest = :digest and state = 'live'"),
            {"digest": digest},
        )
    ).one_or_none()
    return None if row is None else Held(**row._mapping)


_HELD_BY = (
    "select b.digest, b.size, case when rb.proven then b.location end as location, "
    "case when not rb.proven then r.project_id end as scope from blobs b "
    "join repository_blobs rb on rb.digest = b.digest and rb.repository_id = :repository "
    "join repositories r on r.id = rb.repository_id where b.digest = any(:digests) and b.state = 'live'"
)


async def held_by(conn: AsyncConnection, digest: str, repository_id: int) -> Held | None:
    """A blob as a repository may have it."""
    rows = await conn.execute(text(_HELD_BY), {"digests": [digest], "repository": repository_id})
    row = rows.one_or_none()
    return None if row is None else Held(**row._mapping)


async def held_in(conn: AsyncConnection, digest: str, project_id: int | None) -> Held | None:
    """A blob for those who may have the depot's bytes (None), or for a project that may once it has shown its own."""
    blob = await held(conn, digest)
    if blob is None or blob.location is None or project_id is None:
        return blob
    shown = await conn.scalar(
        text(
            "select 1 from repository_blobs rb join repositories r on r.id = rb.repository_id "
            "where rb.digest = :digest and rb.proven and r.project_id = :project limit 1"
        ),
        {"digest": digest, "project": project_id},
    )
    return blob if shown else replace(blob, location=None, scope=project_id)


async def held_all(conn: AsyncConnection, digests: Collection[str], *, repository_id: int | None = None) -> list[Held]:
    """Blobs as they are here (None), or as a repository may have them."""
    anybody = "select digest, size, location from blobs where digest = any(:digests) and state = 'live'"
    rows = await conn.execute(
        text(anybody if repository_id is None else _HELD_BY),
        {"digests": sorted(set(digests))} | ({} if repository_id is None else {"repository": repository_id}),
    )
    return [Held(**row._mapping) for row in rows]


# A container daemon keeps other bytes than it was given: nothing is read from one (`g.kind <> 'daemon'`).
# Content that is denied here is still read where it is exposed: whoever may see it sees it in quarantine. A copy that
# failed may well be whole: it was published, and publishing it anew did not work.
_PLACES = (
    "select distinct l.registry, l.repository, coalesce(g.options ->> 'redirect' = 'true', false) as redirect "
    "from closure c join versions v on v.repository_id = c.repository_id and v.digest = c.root "
    "join placements l on l.version_id = v.id and l.state in ('published','exposed','failed') "
    "join registries g on g.name = l.registry and g.kind <> 'daemon' where c.digest = :digest "
    "and c.repository_id = coalesce(cast(:repository as bigint), c.repository_id) "
    "and (cast(:project as bigint) is null or "
    "c.repository_id in (select id from repositories where project_id = :project)) "
    "order by 1, 2"
)


async def places(
    conn: AsyncConnection, digest: str, *, repository_id: int | None = None, project_id: int | None = None
) -> list[Place]:
    """Every place where a blob should be, by name; with an id, where versions of that model or project are."""
    rows = await conn.execute(text(_PLACES), {"digest": digest, "repository": repository_id, "project": project_id})
    return [Place(**row._mapping) for row in rows]


# -- fetches under way ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetch:
    """A fetch under way: where its bytes gather, and how many there are."""

    location: str
    received: int


async def take_fetch(conn: AsyncConnection, digest: str, *, holder: str, seconds: float) -> Fetch | None:
    """Become the one who fetches a blob, with what a silent predecessor left; None while somebody else does."""
    row = (
        await conn.execute(
            text(
                "insert into fetches (digest, holder, location, until) "
                "values (:digest, :holder, '', clock_timestamp() + :seconds * interval '1 second') "
                "on conflict (digest) do update set holder = excluded.holder, until = excluded.until "
                "where fetches.until < clock_timestamp() returning location, received"
            ),
            {"digest": digest, "holder": holder, "seconds": seconds},
        )
    ).one_or_none()
    return None if row is None else Fetch(**row._mapping)


async def beat_fetch(
    conn: AsyncConnection, digest: str, *, holder: str, location: str, received: int, seconds: float
) -> bool:
    """Say how far a fetch is; False when somebody else has taken it over."""
    result = await conn.execute(
        text(
            "update fetches set location = :location, received = :received, "
            "until = clock_timestamp() + :seconds * interval '1 second' where digest = :digest and holder = :holder"
        ),
        {"digest": digest, "holder": holder, "location": location, "received": received, "seconds": seconds},
    )
    return bool(result.rowcount)


async def fetch_of(conn: AsyncConnection, digest: str) -> Fetch | None:
    row = (
        await conn.execute(text("select location, received from fetches where digest = :d"), {"d": digest})
    ).one_or_none()
    return None if row is None else Fetch(**row._mapping)


async def end_fetch(conn: AsyncConnection, digest: str, *, holder: str) -> None:
    await conn.execute(
        text("delete from fetches where digest = :digest and holder = :holder"), {"digest": digest, "holder": holder}
    )


async def finish_fetch(conn: AsyncConnection, digest: str, *, holder: str, location: str, received: int) -> None:
    """This upload was the blob. The row runs out by itself, and a later fetch finds no upload there."""
    await conn.execute(
        text(
            "update fetches set location = :location, received = :received, "
            "until = clock_timestamp() + interval '2 seconds' where digest = :digest and holder = :holder"
        ),
        {"digest": digest, "holder": holder, "location": location, "received": received},
    )


async def arrived(conn: AsyncConnection, digest: str, *, location: str, now: datetime) -> None:
    """The bytes of a blob are in the depot."""
    await conn.execute(
        text("update blobs set location = :location, read_at = :now where digest = :digest"),
        {"digest": digest, "location": location, "now": now},
    )


async def prove(conn: AsyncConnection, digest: str, *, project_id: int | None, giver: Place | None) -> None:
    """A blob's bytes came from registries of a project, or all of them from one place: those who name it so hold it."""
    await conn.execute(
        text(
            "update repository_blobs rb set proven = true from repositories r "
            "where r.id = rb.repository_id and rb.digest = :digest and not rb.proven and (r.project_id = :project "
            "or r.project_id in (select h.project_id from closure c join repositories h on h.id = c.repository_id "
            "join versions v on v.repository_id = c.repository_id and v.digest = c.root "
            "join placements l on l.version_id = v.id "
            "where c.digest = :digest and l.registry = :registry and l.repository = :repository))"
        ),
        {
            "digest": digest,
            "project": project_id,
            "registry": None if giver is None else giver.registry,
            "repository": None if giver is None else giver.repository,
        },
    )


# -- reading -------------------------------------------------------------------------------------------------------


async def lease(conn: AsyncConnection, digests: Collection[str], *, until: datetime) -> list[Held]:
    """Keep blobs in the depot until then; those that are there now, locked against leaving it."""
    rows = await conn.execute(
        text(
            "with kept as (select digest from blobs where digest = any(:digests) and state = 'live' "
            "order by digest for update) "
            "update blobs b set lease_until = greatest(b.lease_until, :until) from kept where b.digest = kept.digest "
            "returning b.digest, b.size, b.location"
        ),
        {"digests": sorted(set(digests)), "until": until},
    )
    return [Held(**row._mapping) for row in rows]


async def touch(conn: AsyncConnection, digest: str, *, now: datetime, unless_after: datetime) -> None:
    """Remember that a blob was read."""
    await conn.execute(
        text("update blobs set read_at = :now where digest = :digest and read_at < :unless_after"),
        {"digest": digest, "now": now, "unless_after": unless_after},
    )


# -- leaving the depot ---------------------------------------------------------------------------------------------

# A blob may leave only if whatever holds it is below a version that is published elsewhere and admitted here: content
# in quarantine, evidence, untracked manifests and tags that are no version all keep their bytes.
_MAY_LEAVE = """
    b.state = 'live' and b.location is not null and b.lease_until < :now
    and not exists (select 1 from evidence e where e.report = b.digest)
    and exists (select 1 from closure c where c.digest = b.digest)
    and not exists (
        select 1 from closure c where c.digest = b.digest and not exists (
            select 1 from closure d
              join versions v on v.repository_id = d.repository_id and v.digest = d.root and v.state <> 'deleted'
             where d.repository_id = c.repository_id and d.digest = c.root))
    and not exists (
        select 1 from closure c
          join repositories r on r.id = c.repository_id
          join projects p on p.id = r.project_id
          join versions v on v.repository_id = c.repository_id and v.digest = c.root and v.state <> 'deleted'
         where c.digest = b.digest and not (
            exists (select 1 from placements l join registries g on g.name = l.registry and g.kind <> 'daemon'
                     where l.version_id = v.id and l.state = 'published')
            and exists (select 1 from verdicts d where d.repository_id = v.repository_id and d.root = v.digest
                         and d.admitted and d.valid_until > :now
                         and d.policy_hash = p.policy_hash and d.trust_hash = p.trust_hash)))
"""


async def depot_bytes(conn: AsyncConnection) -> int:
    """How many bytes of blobs the depot holds."""
    return int(await conn.scalar(text("select coalesce(sum(size), 0) from blobs where location is not null")) or 0)


async def leaving(conn: AsyncConnection, *, now: datetime, after: tuple[datetime, str], limit: int) -> list[Any]:
    """Blobs that may leave, what was not read for longest first, from a place in that order on."""
    rows = await conn.execute(
        text(
            f"select b.digest, b.size, b.read_at from blobs b where (b.read_at, b.digest) > (:at, :digest) "
            f"and {_MAY_LEAVE} order by b.read_at, b.digest limit :limit"
        ),
        {"now": now, "at": after[0], "digest": after[1], "limit": limit},
    )
    return list(rows)


@dataclass(frozen=True)
class Copy:
    """A published copy of a version. `found`: it was there before us, and nobody here has seen its bytes."""

    registry: str
    repository: str
    found: bool


async def copies(conn: AsyncConnection, digest: str, *, lock: bool = False) -> dict[int, list[Copy]]:
    """version → each published copy of every existing version that holds a blob, those that we made first.

    With `lock`, nobody withdraws one of them, or forgets its registry, before the transaction ends.
    """
    rows = await conn.execute(
        text(
            "select v.id, l.registry, l.repository, l.found from closure c "
            "join versions v on v.repository_id = c.repository_id and v.digest = c.root and v.state <> 'deleted' "
            "join placements l on l.version_id = v.id and l.state = 'published' "
            "join registries g on g.name = l.registry and g.kind <> 'daemon' where c.digest = :digest "
            "order by l.found, l.id" + (" for share of l, g" if lock else "")
        ),
        {"digest": digest},
    )
    held: dict[int, list[Copy]] = {}
    for row in rows:
        held.setdefault(row[0], []).append(Copy(row[1], row[2], row[3]))
    return held


async def let_go(conn: AsyncConnection, digest: str, *, now: datetime) -> str | None:
    """Say that a blob's bytes are not in the depot, if it still may leave; returns where they lie."""
    await conn.execute(text("select digest from blobs where digest = :digest for update"), {"digest": digest})
    location: str | None = await conn.scalar(
        text(f"select b.location from blobs b where b.digest = :digest and {_MAY_LEAVE}"),
        {"digest": digest, "now": now},
    )
    if location is not None:
        await conn.execute(text("update blobs set location = null where digest = :digest"), {"digest": digest})
    return location


async def is_away(conn: AsyncConnection, digest: str) -> bool:
    """Take the digest's lock, as uploads and fetches do, then tell whether no row says its bytes are here."""
    await conn.execute(text("select pg_advisory_xact_lock(hashtextextended(:digest, 0))"), {"digest": digest})
    found = await conn.scalar(
        text("select 1 from blobs where digest = :digest and location is not null"), {"digest": digest}
    )
    return found is None


# -- coming back ---------------------------------------------------------------------------------------------------

# Blobs that existing versions need, whose bytes are not here, and that no published place holds any more.
_STRANDED = """
    select b.digest from blobs b
     where b.state = 'live' and b.location is null
       and b.digest in (select digest from closure where repository_id = :repository and root = :root)
       and exists (select 1 from closure c join versions v on v.repository_id = c.repository_id and v.digest = c.root
                    and v.state <> 'deleted' where c.digest = b.digest)
       and not exists (select 1 from closure c
                         join versions v on v.repository_id = c.repository_id and v.digest = c.root
                         join placements l on l.version_id = v.id and l.state = 'published'
                         join registries g on g.name = l.registry and g.kind <> 'daemon'
                        where c.digest = b.digest)
     order by b.digest
"""


async def stranded_by(conn: AsyncConnection, repository_id: int, root: str) -> list[str]:
    """What is lost once this version is taken back everywhere; its places must no longer say `published`."""
    rows = await conn.scalars(text(_STRANDED), {"repository": repository_id, "root": root})
    return list(rows)


# -- what `where` shows --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """How much of a version is in the depot."""

    blobs: int
    bytes: int
    blobs_here: int
    bytes_here: int


async def spread_of(conn: AsyncConnection, repository_id: int, root: str) -> Spread:
    row = (
        await conn.execute(
            text(
                "select count(*) as blobs, coalesce(sum(b.size), 0)::bigint as bytes, "
                "count(*) filter (where b.location is not null) as blobs_here, "
                "coalesce(sum(b.size) filter (where b.location is not null), 0)::bigint as bytes_here "
                "from closure c join blobs b on b.digest = c.digest and b.state = 'live' "
                "where c.repository_id = :repository and c.root = :root and not c.is_manifest"
            ),
            {"repository": repository_id, "root": root},
        )
    ).one()
    return Spread(**row._mapping)


async def drop_silent_fetches(conn: AsyncConnection, *, before: datetime) -> Sequence[str]:
    """Forget fetches that nobody has gone on with since; returns where their bytes lie."""
    rows = await conn.scalars(text("delete from fetches where until < :before returning location"), {"before": before})
    return [location for location in rows if location]


async def known_fetch(conn: AsyncConnection, location: str) -> bool:
    """Whether an upload belongs to a fetch."""
    found = await conn.scalar(text("select 1 from fetches where location = :location"), {"location": location})
    return found is not None
