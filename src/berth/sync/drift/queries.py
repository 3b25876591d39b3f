"""SQL of drift: written by plans and by what their items become, read per model and registry."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# What a plan found that is not as the rule wants it; what waits for its hours is among it.
_DIFFERS = "(i.action <> 'skip' or i.code = 'outside_window')"


async def remember(conn: AsyncConnection, run_id: int) -> None:
    """Take over what a rule's plan found. A difference that was known keeps the time at which it was first seen."""
    await conn.execute(
        text(
            f"""
            insert into sync_drift (rule_id, target_repository, tag, source_repository, action, code, reason, digest,
                                    target_digest, since)
            select s.rule_id, i.target_repository, i.tag, i.source_repository,
                   case when i.action = 'skip' then 'copy' else i.action end, i.code, i.reason, i.digest,
                   i.target_digest, coalesce(s.started_at, s.created_at)
              from sync_items i join sync_runs s on s.id = i.run_id
             where i.run_id = :run and s.rule_id is not null and {_DIFFERS}
             order by 1, 2, 3
            on conflict (rule_id, target_repository, tag) do update
               set source_repository = excluded.source_repository, action = excluded.action, code = excluded.code,
                   reason = excluded.reason, digest = excluded.digest, target_digest = excluded.target_digest,
                   since = case when sync_drift.action = excluded.action
                                 and sync_drift.digest is not distinct from excluded.digest
                                 and sync_drift.target_digest is not distinct from excluded.target_digest
                                then sync_drift.since else excluded.since end
            """
        ),
        {"run": run_id},
    )
    await conn.execute(
        text(
            f"""
            delete from sync_drift d using sync_runs s
             where s.id = :run and d.rule_id = s.rule_id and not exists (
                   select 1 from sync_items i where i.run_id = :run and i.target_repository = d.target_repository
                      and i.tag = d.tag and {_DIFFERS})
            """
        ),
        {"run": run_id},
    )


async def settle(conn: AsyncConnection, item_id: int, *, state: str, error: str | None) -> None:
    """An item of a run has come to its end: what is done no longer differs, what failed says why."""
    change = (
        "delete from sync_drift d using sync_items i, sync_runs s where "
        if state == "done"
        else "update sync_drift d set error = :error from sync_items i, sync_runs s where "
    )
    await conn.execute(
        text(
            change + "i.id = :item and s.id = i.run_id and d.rule_id = s.rule_id "
            "and d.target_repository = i.target_repository and d.tag = i.tag and i.action <> 'skip'"
        ),
        {"item": item_id} if state == "done" else {"item": item_id, "error": error},
    )


@dataclass(frozen=True)
class RuleRow:
    """A rule and how far apart its places are. `checked_at`: start of the newest run that could plan."""

    rule: str
    source: str
    target: str
    project: str
    enabled: bool
    schedule: str | None
    checked_at: datetime | None
    last_error: str | None
    versions: int
    since: datetime | None


async def rules(
    conn: AsyncConnection, *, owners: Collection[str] | None, rule: str | None, limit: int
) -> list[RuleRow]:
    """Rules by name; of these projects only, or all when `owners` is None."""
    rows = await conn.execute(
        text(
            """
            select u.name as rule, u.source, u.target, u.project, u.enabled, u.schedule, c.at as checked_at,
                   l.error as last_error, coalesce(d.versions, 0) as versions, d.since
              from sync_rules u
              left join projects p on p.id = u.project_id
              left join lateral (select coalesce(s.started_at, s.created_at) as at from sync_runs s
                    where s.rule_id = u.id and s.planned order by s.id desc limit 1) c on true
              left join lateral (select s.error from sync_runs s
                    where s.rule_id = u.id and s.finished_at is not null order by s.id desc limit 1) l on true
              left join lateral (select count(*) as versions, min(x.since) as since from sync_drift x
                    where x.rule_id = u.id) d on true
             where (cast(:owners as text[]) is null or p.name = any(:owners))
               and (cast(:rule as text) is null or u.name = :rule)
             order by u.name collate "C" limit :limit
            """
        ),
        {"owners": None if owners is None else list(owners), "rule": rule, "limit": limit},
    )
    return [RuleRow(**row._mapping) for row in rows]


@dataclass(frozen=True)
class ModelRow:
    """One model of one rule that is not in step at the rule's target."""

    rule: str
    source: str
    target: str
    source_model: str
    model: str
    missing: int
    evidence_missing: int
    conflicts: int
    surplus: int
    failing: int
    since: datetime
    versions: Sequence[str]


async def models(
    conn: AsyncConnection,
    *,
    owners: Collection[str] | None,
    rule: str | None,
    target: str | None,
    after: tuple[str, str],
    limit: int,
) -> list[ModelRow]:
    """Models that differ, by rule and name; `versions` names at most ten of each."""
    rows = await conn.execute(
        text(
            """
            select u.name as rule, u.source, u.target, min(d.source_repository) as source_model,
                   d.target_repository as model,
                   count(*) filter (where d.action = 'copy' and d.target_digest is null) as missing,
                   count(*) filter (where d.action = 'copy' and d.target_digest is not null) as evidence_missing,
                   count(*) filter (where d.action = 'conflict') as conflicts,
                   count(*) filter (where d.action = 'prune') as surplus,
                   count(*) filter (where d.error is not null) as failing,
                   min(d.since) as since, (array_agg(d.tag order by d.tag))[1:10] as versions
              from sync_drift d
              join sync_rules u on u.id = d.rule_id
              left join projects p on p.id = u.project_id
             where (cast(:owners as text[]) is null or p.name = any(:owners))
               and (cast(:rule as text) is null or u.name = :rule)
               and (cast(:target as text) is null or u.target = :target)
               and (u.name collate "C", d.target_repository collate "C") > (:after_rule, :after_model)
             group by u.name, u.source, u.target, d.target_repository
             order by u.name collate "C", d.target_repository collate "C" limit :limit
            """
        ),
        {
            "owners": None if owners is None else list(owners),
            "rule": rule,
            "target": target,
            "after_rule": after[0],
            "after_model": after[1],
            "limit": limit,
        },
    )
    return [ModelRow(**row._mapping) for row in rows]


@dataclass(frozen=True)
class VersionRow:
    """One version that is not in step."""

    model: str
    tag: str
    source_model: str
    action: str
    code: str
    reason: str
    digest: str | None
    target_digest: str | None
    error: str | None
    since: datetime


async def versions(
    conn: AsyncConnection, rule_id: int, *, model: str | None, after: tuple[str, str], limit: int
) -> list[VersionRow]:
    """What differs of one rule, by model and tag."""
    rows = await conn.execute(
        text(
            "select target_repository as model, tag, source_repository as source_model, action, code, reason, digest, "
            "target_digest, error, since from sync_drift where rule_id = :rule "
            "and (cast(:model as text) is null or target_repository = :model) "
            "and (target_repository, tag) > (:after_model, :after_tag) "
            "order by target_repository, tag limit :limit"
        ),
        {"rule": rule_id, "model": model, "after_model": after[0], "after_tag": after[1], "limit": limit},
    )
    return [VersionRow(**row._mapping) for row in rows]


@dataclass(frozen=True)
class PlaceRow:
    """Published versions of one model that are not where, or as, they belong in one registry."""

    registry: str
    model: str
    pending: int
    failed: int
    exposed: int
    since: datetime
    error: str | None


async def places(conn: AsyncConnection, *, projects: Collection[str] | None, limit: int) -> list[PlaceRow]:
    """By model and registry; of these projects only, or all when None."""
    rows = await conn.execute(
        text(
            """
            select x.registry, r.name as model, count(*) filter (where x.state = 'pending') as pending,
                   count(*) filter (where x.state = 'failed') as failed,
                   count(*) filter (where x.state = 'exposed') as exposed, min(x.at) as since, max(x.error) as error
              from placements x
              join versions v on v.id = x.version_id
              join repositories r on r.id = v.repository_id
              join projects p on p.id = r.project_id
             where x.state in ('pending','failed','exposed')
               and (cast(:projects as text[]) is null or p.name = any(:projects))
             group by x.registry, r.name order by r.name, x.registry limit :limit
            """
        ),
        {"projects": None if projects is None else list(projects), "limit": limit},
    )
    return [PlaceRow(**row._mapping) for row in rows]
