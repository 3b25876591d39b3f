"""How are other registries remembered? SQL in, facts out; secrets stay sealed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from berth.db.tables import placements, projects, registries, repositories, sync_rules, versions


@dataclass(frozen=True, slots=True)
class RegistryRow:
    id: int
    name: str
    kind: str
    url: str
    username: str | None
    secret: bytes | None = field(repr=False)
    options: Mapping[str, Any]
    capabilities: Mapping[str, Any] | None
    probed_at: datetime | None
    created_by: str
    created_at: datetime
    takes_open: bool = False
    hook_secret: bytes | None = field(default=None, repr=False)


async def registry_named(conn: AsyncConnection, name: str, *, lock: bool = False) -> RegistryRow | None:
    query = select(registries).where(registries.c.name == name)
    row = (await conn.execute(query.with_for_update() if lock else query)).one_or_none()
    return None if row is None else _row(row)


async def registry_by_id(conn: AsyncConnection, registry_id: int) -> RegistryRow | None:
    row = (await conn.execute(select(registries).where(registries.c.id == registry_id))).one_or_none()
    return None if row is None else _row(row)


async def list_registries(conn: AsyncConnection, *, after: str | None, limit: int) -> list[RegistryRow]:
    """By name."""
    query = select(registries).order_by(registries.c.name).limit(limit)
    if after is not None:
        query = query.where(registries.c.name > after)
    return [_row(row) for row in await conn.execute(query)]


async def insert_registry(
    conn: AsyncConnection,
    *,
    name: str,
    kind: str,
    url: str,
    username: str | None,
    secret: bytes | None,
    options: Mapping[str, Any],
    created_by: str,
    takes_open: bool = False,
) -> RegistryRow | None:
    """The new row, or None when the name is taken."""
    values = {
        "name": name,
        "kind": kind,
        "url": url,
        "username": username,
        "secret": secret,
        "options": dict(options),
        "created_by": created_by,
        "takes_open": takes_open,
    }
    query = insert(registries).values(values).on_conflict_do_nothing().returning(registries)
    row = (await conn.execute(query)).one_or_none()
    return None if row is None else _row(row)


async def update_registry(conn: AsyncConnection, registry_id: int, *, values: Mapping[str, Any]) -> RegistryRow:
    """Change the named columns; what an earlier probe found is forgotten, unless only the mark changes."""
    probed = {} if set(values) == {"takes_open"} else {"capabilities": None, "probed_at": None}
    changed = {**values, **probed}
    query = update(registries).where(registries.c.id == registry_id).values(changed).returning(registries)
    return _row((await conn.execute(query)).one())


async def set_hook_secret(conn: AsyncConnection, registry_id: int, sealed: bytes | None) -> None:
    """What deliveries have to carry; None: there are none. What a probe found stays."""
    await conn.execute(update(registries).where(registries.c.id == registry_id).values(hook_secret=sealed))


async def set_capabilities(
    conn: AsyncConnection, registry_id: int, *, capabilities: Mapping[str, Any], now: datetime
) -> RegistryRow | None:
    """Keep what a probe found; None when the row is gone."""
    query = (
        update(registries)
        .where(registries.c.id == registry_id)
        .values(capabilities=dict(capabilities), probed_at=now)
        .returning(registries)
    )
    row = (await conn.execute(query)).one_or_none()
    return None if row is None else _row(row)


async def users_of(conn: AsyncConnection, name: str) -> list[str]:
    """Who relies on a registry: `project NAME` where it is the home, `rule NAME` where it is source or target."""
    homes = select(projects.c.name).where(projects.c.home == name).order_by(projects.c.name)
    rules = select(sync_rules.c.name).where((sync_rules.c.source == name) | (sync_rules.c.target == name))
    found = [f"project {project}" for project in await conn.scalars(homes)]
    return found + [f"rule {rule}" for rule in await conn.scalars(rules.order_by(sync_rules.c.name))]


async def takes_open(conn: AsyncConnection, name: str) -> bool:
    """Whether versions of open projects may be published there; False for a name that nobody knows."""
    return bool(await conn.scalar(select(registries.c.takes_open).where(registries.c.name == name)))


async def not_for_open(conn: AsyncConnection, project_id: int, home: str) -> list[str]:
    """Registries without the mark that `home` names or that hold versions of the project; the mark waits for us."""
    held = (
        select(placements.c.registry)
        .join(versions, versions.c.id == placements.c.version_id)
        .join(repositories, repositories.c.id == versions.c.repository_id)
        .where(repositories.c.project_id == project_id, placements.c.state.in_(("published", "exposed")))
    )
    query = (
        select(registries.c.name)
        .where(~registries.c.takes_open, or_(registries.c.name == home, registries.c.name.in_(held)))
        .order_by(registries.c.name)
        .with_for_update(read=True)
    )
    return list(await conn.scalars(query))


async def open_projects_at(conn: AsyncConnection, name: str) -> list[str]:
    """Open projects whose home a registry is, or that have versions there."""
    held = (
        select(repositories.c.project_id)
        .join(versions, versions.c.repository_id == repositories.c.id)
        .join(placements, placements.c.version_id == versions.c.id)
        .where(placements.c.registry == name, placements.c.state.in_(("published", "exposed")))
    )
    query = (
        select(projects.c.name)
        .where(projects.c.policy["preset"].astext == "open")
        .where(or_(projects.c.home == name, projects.c.id.in_(held)))
        .order_by(projects.c.name)
    )
    return list(await conn.scalars(query))


async def only_copies_at(conn: AsyncConnection, name: str) -> tuple[int, int]:
    """(blobs, bytes) that existing versions need and that are at this registry alone, not even in the depot."""
    row = (
        await conn.execute(
            text(
                """
                with placed as (
                    select distinct c.digest from placements l
                      join versions v on v.id = l.version_id
                      join closure c on c.repository_id = v.repository_id and c.root = v.digest
                     where l.registry = :name and l.state in ('published','exposed') and not c.is_manifest)
                select count(*), coalesce(sum(b.size), 0)::bigint from placed
                  join blobs b on b.digest = placed.digest and b.state = 'live' and b.location is null
                 where exists (select 1 from closure c
                                 join versions v on v.repository_id = c.repository_id and v.digest = c.root
                                  and v.state <> 'deleted' where c.digest = b.digest)
                   and not exists (select 1 from closure c
                                     join versions v on v.repository_id = c.repository_id and v.digest = c.root
                                     join placements l on l.version_id = v.id and l.state = 'published'
                                     join registries g on g.name = l.registry and g.kind <> 'daemon'
                                    where c.digest = b.digest and l.registry <> :name)
                """
            ),
            {"name": name},
        )
    ).one()
    return int(row[0]), int(row[1])


async def delete_registry(conn: AsyncConnection, name: str) -> bool:
    """Whether there was one."""
    return (await conn.execute(delete(registries).where(registries.c.name == name))).rowcount > 0


def _row(row: Row[Any]) -> RegistryRow:
    return RegistryRow(**dict(row._mapping))
