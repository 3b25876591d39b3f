"""SQL of rules, their runs, and the journal of each item."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from berth.sync.drift import queries as drift
from berth.sync.rules import Rule
from berth.wire.plan import Item

# -- rules -------------------------------------------------------------------------------------------------------

_RULES = (
    "select u.id, u.name, u.project, u.project_id, p.name as owner, u.source, u.target, u.terms, u.schedule, "
    "u.next_run_at, u.on_admission, u.on_event, u.enabled, u.created_by, u.created_at "
    "from sync_rules u left join projects p on p.id = u.project_id "
)


def _rule(row: Any) -> Rule:
    return Rule(**row._mapping)


async def insert_rule(conn: AsyncConnection, values: Mapping[str, Any]) -> bool:
    """Write a rule; False when the name is taken."""
    made = await conn.execute(
        text(
            "insert into sync_rules (name, project, project_id, source, target, terms, schedule, next_run_at, "
            "on_admission, on_event, created_by) values (:name, :project, :project_id, :source, :target, "
            "cast(:terms as jsonb), :schedule, :next_run_at, :on_admission, :on_event, :created_by) "
            "on conflict (name) do nothing returning id"
        ),
        {"on_event": False, **values, "terms": json.dumps(values["terms"])},
    )
    return made.first() is not None


async def rule_by_name(conn: AsyncConnection, name: str) -> Rule | None:
    row = (await conn.execute(text(_RULES + "where u.name = :name"), {"name": name})).one_or_none()
    return None if row is None else _rule(row)


async def list_rules(
    conn: AsyncConnection, *, owners: Collection[str] | None, after: str | None, limit: int
) -> list[Rule]:
    """Rules by name; of these projects only, or all when `owners` is None."""
    rows = await conn.execute(
        text(
            _RULES + "where (cast(:owners as text[]) is null or p.name = any(:owners)) "
            'and u.name collate "C" > :after order by u.name collate "C" limit :limit'
        ),
        {"owners": None if owners is None else list(owners), "after": after or "", "limit": limit},
    )
    return [_rule(row) for row in rows]


async def admission_rules(conn: AsyncConnection, project: str) -> list[Rule]:
    """The rules by which what is admitted in a project goes to replicas at once."""
    rows = await conn.execute(
        text(_RULES + "where u.on_admission and u.enabled and u.source = 'depot' and u.project = :p order by u.name"),
        {"p": project},
    )
    return [_rule(row) for row in rows]


async def event_rules(conn: AsyncConnection, source: str, project: str) -> list[Rule]:
    """The rules that a push to a project of that registry starts."""
    rows = await conn.execute(
        text(_RULES + "where u.on_event and u.enabled and u.source = :s and u.project = :p order by u.name"),
        {"s": source, "p": project},
    )
    return [_rule(row) for row in rows]


async def change_rule(conn: AsyncConnection, rule_id: int, *, enabled: bool, next_run_at: datetime | None) -> None:
    await conn.execute(
        text("update sync_rules set enabled = :enabled, next_run_at = :next where id = :id"),
        {"id": rule_id, "enabled": enabled, "next": next_run_at},
    )


async def delete_rule(conn: AsyncConnection, rule_id: int) -> None:
    await conn.execute(text("delete from sync_rules where id = :id"), {"id": rule_id})


async def due_rules(conn: AsyncConnection, *, now: datetime, limit: int) -> list[Rule]:
    """Rules whose time has come, locked until the transaction ends; those that another worker holds are left out."""
    rows = await conn.execute(
        text(
            _RULES + "where u.enabled and u.schedule is not null and u.next_run_at <= :now "
            "order by u.next_run_at limit :limit for update of u skip locked"
        ),
        {"now": now, "limit": limit},
    )
    return [_rule(row) for row in rows]


async def set_next_run(conn: AsyncConnection, rule_id: int, at: datetime) -> None:
    await conn.execute(text("update sync_rules set next_run_at = :at where id = :id"), {"id": rule_id, "at": at})


# -- runs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One run or plan of a rule, or an import from a registry, with what its items add up to."""

    id: int
    rule_id: int | None
    rule: str
    registry: str | None
    terms: Mapping[str, Any]
    owner: str | None
    kind: str
    state: str
    planned: bool
    cancel_requested: bool
    attempts: int
    error: str | None
    started_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    bytes_transferred: int
    counts: Mapping[str, int]


@dataclass(frozen=True)
class ItemRow:
    """One line of a run."""

    id: int
    action: str
    source_repository: str
    target_repository: str
    tag: str
    digest: str | None
    target_digest: str | None
    code: str
    reason: str
    state: str
    bytes: int
    blobs: int
    error: str | None
    notes: Sequence[str]


_RUNS = """
    select s.id, s.rule_id, coalesce(u.name, 'import of ' || s.registry) as rule, s.registry, s.terms,
           p.name as owner, s.kind, s.state, s.planned, s.cancel_requested, s.attempts,
           s.error, s.started_by, s.created_at, s.started_at, s.finished_at,
           coalesce((select sum(i.bytes) from sync_items i where i.run_id = s.id), 0)::bigint as bytes_transferred,
           coalesce((select jsonb_object_agg(c.word, c.count) from (
               select coalesce(nullif(i.state, 'planned'), i.action) as word, count(*) as count
                 from sync_items i where i.run_id = s.id group by 1) c), '{}') as counts
      from sync_runs s left join sync_rules u on u.id = s.rule_id
      left join projects p on p.id = coalesce(u.project_id, s.project_id)
"""


async def insert_run(conn: AsyncConnection, *, rule_id: int, kind: str, started_by: str) -> int | None:
    """A new run; None while another run of the rule is under way."""
    made = await conn.execute(
        text(
            "insert into sync_runs (rule_id, kind, started_by) values (:rule, :kind, :by) "
            "on conflict (rule_id) where kind = 'run' and state in ('queued','running') do nothing returning id"
        ),
        {"rule": rule_id, "kind": kind, "by": started_by},
    )
    row = made.first()
    return None if row is None else int(row[0])


async def run_by_id(conn: AsyncConnection, run_id: int) -> Run | None:
    row = (await conn.execute(text(_RUNS + "where s.id = :id"), {"id": run_id})).one_or_none()
    return None if row is None else Run(**row._mapping)


async def rule_of_run(conn: AsyncConnection, run_id: int) -> Rule | None:
    query = _RULES + "join sync_runs s on s.rule_id = u.id where s.id = :id"
    row = (await conn.execute(text(query), {"id": run_id})).one_or_none()
    return None if row is None else _rule(row)


async def list_runs(conn: AsyncConnection, rule_id: int, *, before: int | None, limit: int) -> list[Run]:
    """Runs of a rule, newest first."""
    rows = await conn.execute(
        text(_RUNS + "where s.rule_id = :rule and s.id < :before order by s.id desc limit :limit"),
        {"rule": rule_id, "before": before or 2**62, "limit": limit},
    )
    return [Run(**row._mapping) for row in rows]


async def begin_run(conn: AsyncConnection, run_id: int, *, now: datetime) -> None:
    await conn.execute(
        text(
            "update sync_runs set state = 'running', started_at = coalesce(started_at, :now), beat_at = :now, "
            "attempts = attempts + 1 where id = :id"
        ),
        {"id": run_id, "now": now},
    )


async def end_run(conn: AsyncConnection, run_id: int, *, state: str, error: str | None, now: datetime) -> None:
    await conn.execute(
        text("update sync_runs set state = :state, error = :error, finished_at = :now where id = :id"),
        {"id": run_id, "state": state, "error": error, "now": now},
    )
    await conn.execute(text("delete from sync_uploads where run_id = :id"), {"id": run_id})


async def request_cancel(conn: AsyncConnection, run_id: int) -> None:
    await conn.execute(text("update sync_runs set cancel_requested = true where id = :id"), {"id": run_id})


async def beat(conn: AsyncConnection, run_id: int, *, now: datetime) -> bool:
    """Say that a run lives; whether it was asked to stop (or is gone)."""
    asked = await conn.scalar(
        text("update sync_runs set beat_at = :now where id = :id returning cancel_requested"),
        {"id": run_id, "now": now},
    )
    return asked is not False


async def silent_runs(conn: AsyncConnection, *, before: datetime, limit: int) -> list[int]:
    """Runs under way that have not said a word since."""
    rows = await conn.scalars(
        text(
            "select id from sync_runs where state in ('queued','running') "
            "and coalesce(beat_at, created_at) < :before order by id limit :limit"
        ),
        {"before": before, "limit": limit},
    )
    return list(rows)


async def write_plan(conn: AsyncConnection, run_id: int, items: Sequence[Item]) -> None:
    """Store the items of a run, once."""
    if items:
        await conn.execute(
            text(
                "insert into sync_items (run_id, action, source_repository, target_repository, tag, digest, "
                "target_digest, code, reason, state) values (:run, :action, :source_repository, :target_repository, "
                ":tag, :digest, :target_digest, :code, :reason, :state)"
            ),
            [{"run": run_id, "state": _first_state(item), **asdict(item)} for item in items],
        )
    await conn.execute(text("update sync_runs set planned = true where id = :id"), {"id": run_id})
    await drift.remember(conn, run_id)


async def source_digests(conn: AsyncConnection, rule_id: int, *, before: int) -> dict[tuple[str, str], str]:
    """(source repository, tag) → digest, as the last plan of a rule found them; nothing but a guess by now."""
    rows = await conn.execute(
        text(
            "select source_repository, tag, digest from sync_items where digest is not null and run_id = "
            "(select max(id) from sync_runs where rule_id = :rule and id < :before and planned)"
        ),
        {"rule": rule_id, "before": before},
    )
    return {(row.source_repository, row.tag): row.digest for row in rows}


def _first_state(item: Item) -> str:
    if item.action == "conflict":
        return "conflict"
    return "done" if item.action == "skip" else "planned"


async def items_of(
    conn: AsyncConnection, run_id: int, *, after: int = 0, limit: int, drift: bool = False
) -> list[ItemRow]:
    """Lines of a run; with `drift` only what the places differ in."""
    rows = await conn.execute(
        text(
            "select id, action, source_repository, target_repository, tag, digest, target_digest, code, reason, state, "
            "bytes, blobs, error, notes from sync_items where run_id = :run and id > :after "
            "and (not :drift or action <> 'skip') order by id limit :limit"
        ),
        {"run": run_id, "after": after, "limit": limit, "drift": drift},
    )
    return [ItemRow(**row._mapping) for row in rows]


async def open_items(conn: AsyncConnection, run_id: int) -> list[ItemRow]:
    """What a run still has to do, in the order of its plan."""
    rows = await conn.execute(
        text(
            "select id, action, source_repository, target_repository, tag, digest, target_digest, code, reason, state, "
            "bytes, blobs, error, notes from sync_items where run_id = :run and state in ('planned','running') "
            "order by id"
        ),
        {"run": run_id},
    )
    return [ItemRow(**row._mapping) for row in rows]


async def set_item(
    conn: AsyncConnection, item_id: int, *, state: str, error: str | None = None, notes: Sequence[str] = ()
) -> None:
    await conn.execute(
        text(
            "update sync_items set state = :state, error = :error, notes = cast(:notes as jsonb), "
            "updated_at = clock_timestamp() where id = :id"
        ),
        {"id": item_id, "state": state, "error": error, "notes": json.dumps(list(notes))},
    )
    if state != "running":
        await drift.settle(conn, item_id, state=state, error=error)


async def item_sent(conn: AsyncConnection, item_id: int, size: int) -> None:
    """One more blob of an item is whole at the target. Bytes that moved show that the run gets on: its failed attempts
    are forgotten."""
    await conn.execute(
        text(
            "with item as (update sync_items set bytes = bytes + :size, blobs = blobs + 1, "
            "updated_at = clock_timestamp() where id = :id returning run_id) "
            "update sync_runs s set attempts = 1 from item where s.id = item.run_id and s.attempts > 1 and :size > 0"
        ),
        {"id": item_id, "size": size},
    )


async def close_items(conn: AsyncConnection, run_id: int, *, error: str) -> None:
    """What a run did not get to."""
    await conn.execute(
        text(
            "update sync_items set state = 'cancelled', error = :error "
            "where run_id = :run and state in ('planned','running')"
        ),
        {"run": run_id, "error": error},
    )


async def has_failures(conn: AsyncConnection, run_id: int) -> bool:
    found = await conn.scalar(
        text("select exists (select 1 from sync_items where run_id = :run and state = 'failed')"), {"run": run_id}
    )
    return bool(found)
