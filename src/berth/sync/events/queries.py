"""Events of other registries, and the pulls they count. SQL in, facts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True)
class EventRow:
    """One event as it is stored; `outcome` says what followed from it."""

    id: int
    action: str
    repository: str
    digest: str | None
    tag: str | None
    happened_at: datetime | None
    received_at: datetime
    deliveries: int
    state: str
    outcome: str | None


@dataclass(frozen=True)
class PullRow:
    """How often content was pulled at a registry, as far as it told."""

    repository: str
    digest: str
    pulls: int
    last_at: datetime


_EVENTS = (
    "select id, action, repository, digest, tag, happened_at, received_at, deliveries, state, outcome "
    "from registry_events "
)


async def insert_event(conn: AsyncConnection, registry_id: int, values: Mapping[str, Any]) -> bool:
    """Store an event; False when it was there already, which is counted."""
    made = await conn.scalar(
        text(
            "insert into registry_events (registry_id, key, action, repository, digest, tag, happened_at, received_at) "
            "values (:registry, :key, :action, :repository, :digest, :tag, :happened_at, :received_at) "
            "on conflict (registry_id, key) do update set deliveries = registry_events.deliveries + 1 "
            "returning xmax = 0"
        ),
        {"registry": registry_id, **values},
    )
    return bool(made)


async def new_events(conn: AsyncConnection, registry_id: int, *, after: int, limit: int) -> list[EventRow]:
    """Events from which nothing has followed yet, in the order they came."""
    rows = await conn.execute(
        text(_EVENTS + "where registry_id = :r and state = 'new' and id > :after order by id limit :limit"),
        {"r": registry_id, "after": after, "limit": limit},
    )
    return [EventRow(**row._mapping) for row in rows]


async def registries_waiting(conn: AsyncConnection, *, before: datetime) -> list[int]:
    """Registries with events that have waited since before then."""
    rows = await conn.scalars(
        text("select distinct registry_id from registry_events where state = 'new' and received_at < :before"),
        {"before": before},
    )
    return list(rows)


async def list_events(conn: AsyncConnection, registry_id: int, *, before: int | None, limit: int) -> list[EventRow]:
    """Events of a registry, newest first."""
    rows = await conn.execute(
        text(_EVENTS + "where registry_id = :r and id < :before order by id desc limit :limit"),
        {"r": registry_id, "before": before or 2**62, "limit": limit},
    )
    return [EventRow(**row._mapping) for row in rows]


async def finish(conn: AsyncConnection, event: int, outcome: str) -> bool:
    """Something has followed from an event; False when another worker was faster."""
    done = await conn.execute(
        text("update registry_events set state = 'done', outcome = :outcome where id = :id and state = 'new'"),
        {"id": event, "outcome": outcome},
    )
    return done.rowcount > 0


async def count_pull(conn: AsyncConnection, registry_id: int, *, repository: str, digest: str, at: datetime) -> None:
    await conn.execute(
        text(
            "insert into registry_pulls (registry_id, repository, digest, pulls, last_at) "
            "values (:r, :repository, :digest, 1, :at) on conflict (registry_id, repository, digest) do update "
            "set pulls = registry_pulls.pulls + 1, last_at = greatest(registry_pulls.last_at, excluded.last_at)"
        ),
        {"r": registry_id, "repository": repository, "digest": digest, "at": at},
    )


async def pulls_of(conn: AsyncConnection, registry_id: int, repository: str, digest: str) -> PullRow | None:
    row = (
        await conn.execute(
            text(
                "select repository, digest, pulls, last_at from registry_pulls "
                "where registry_id = :r and repository = :repository and digest = :digest"
            ),
            {"r": registry_id, "repository": repository, "digest": digest},
        )
    ).one_or_none()
    return None if row is None else PullRow(**row._mapping)


@dataclass(frozen=True)
class Lost:
    """A placement that an event says is gone."""

    placement: int
    version_id: int
    version: str
    digest: str
    repository_id: int
    repository: str


async def placed(
    conn: AsyncConnection, registry: str, repository: str, *, digest: str | None, version: str | None
) -> Sequence[Lost]:
    """What was published at a place of a registry, by digest or number."""
    rows = await conn.execute(
        text(
            "select l.id as placement, v.id as version_id, v.version, v.digest, v.repository_id, l.repository "
            "from placements l join versions v on v.id = l.version_id "
            "where l.registry = :registry and l.repository = :repository and l.state = 'published' "
            "and (v.digest = :digest or v.version = :version) order by l.id"
        ),
        {"registry": registry, "repository": repository, "digest": digest, "version": version},
    )
    return [Lost(**row._mapping) for row in rows]


async def waiting_run(conn: AsyncConnection, rule_id: int) -> int | None:
    """A run of a rule that has not begun, and so will see what was there before now. It cannot begin meanwhile."""
    run = await conn.scalar(
        text("select id from sync_runs where rule_id = :rule and kind = 'run' and state = 'queued' for update"),
        {"rule": rule_id},
    )
    return None if run is None else int(run)


async def forget_old(conn: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Remove events that came before then; how many."""
    gone = await conn.execute(
        text(
            "delete from registry_events where id in "
            "(select id from registry_events where received_at < :before order by received_at limit :limit)"
        ),
        {"before": before, "limit": limit},
    )
    return gone.rowcount
