"""Which versions fit a machine, and whose needs are not recorded yet? SQL in, facts out.

The same answer as `authoring/fit.py compare()` gives for one version; a test holds the two together.

A page is filled in two steps, each of bounded work at any number of versions. First the next models by name are looked
at: on a large machine most fit, and the page is full. Where that is not enough, `ix_version_needs_machine` says which
models have anything that fits, and only those are looked at. A page may therefore be short and yet not the last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    CTE,
    Integer,
    ScalarSelect,
    Select,
    and_,
    case,
    func,
    literal,
    not_,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import ColumnElement

from berth.authoring.fit import CPU_SLACK, Device, Machine, device_words, numbers_of, twice
from berth.catalog.fitting.needs import NeedsRow
from berth.db.tables import projects, repositories, verdicts, version_needs, versions

_n = version_needs.c


@dataclass(frozen=True)
class Place:
    """Where a page starts: behind this model, or behind this version (by its number) of it."""

    model: str
    number: int | None = None


@dataclass(frozen=True)
class Found:
    """A version in an answer. `admitted` is None when its stored verdict no longer counts: decide again."""

    version_id: int
    repository_id: int
    model: str
    version: str
    number: int
    digest: str
    created_at: datetime
    declared: Mapping[str, Any]
    admitted: bool | None


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        machine: has to have what the version needs.
        nearly: instead, versions that do not fit it but a machine twice as large.
        every: all versions, not only the highest release of each model that fits.
        refused: those that the gate refuses, too.
        project_names: only these projects; None: all.
    """

    machine: Machine
    nearly: bool = False
    every: bool = False
    refused: bool = False
    project_names: Collection[str] | None = None


@dataclass(frozen=True)
class Unrecorded:
    """A version whose needs are not recorded yet."""

    version_id: int
    repository_id: int
    declared: Mapping[str, Any]


async def record_needs(conn: AsyncConnection, version_id: int, repository_id: int, rows: Sequence[NeedsRow]) -> None:
    """Write what a version needs, once; writing it again changes nothing."""
    if rows:
        place = {"version_id": version_id, "repository_id": repository_id}
        await conn.execute(upsert(version_needs).on_conflict_do_nothing(), [place | asdict(row) for row in rows])
    await conn.execute(update(versions).where(versions.c.id == version_id).values(needs_recorded=True))


async def unrecorded(conn: AsyncConnection, *, limit: int) -> list[Unrecorded]:
    """Versions whose needs are not recorded, held until the transaction ends; those that somebody holds are skipped."""
    query = (
        select(versions.c.id.label("version_id"), versions.c.repository_id, versions.c.declared)
        .where(versions.c.needs_recorded.is_(False))
        .order_by(versions.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return [Unrecorded(**row) for row in (await conn.execute(query)).mappings()]


async def find(
    conn: AsyncConnection, wanted: Wanted, *, now: datetime, after: Place | None, limit: int
) -> tuple[list[Found], Place | None]:
    """Versions that fit, by model name and then highest first, and where to go on (None: there is nothing more)."""
    found: list[Found] = []
    size = 4 * limit
    for by_need in (False, True):
        query = page_query(wanted, now=now, after=after, models=size, rows=size + limit, by_need=by_need)
        rows = (await conn.execute(query)).mappings().all()
        for row in rows:
            after = Place(row["model"], row["number"] if wanted.every else None)
            if row["version_id"] is not None:
                found.append(Found(**row))
            if len(found) == limit:
                return found, after
        if len(rows) < size + limit and len({row["model"] for row in rows}) < size:
            return found, None
    return found, after


def page_query(
    wanted: Wanted, *, now: datetime, after: Place | None, models: int, rows: int, by_need: bool
) -> Select[Any]:
    """The next so many models by name with their versions that fit; a model without one is a row without a version.

    Args:
        by_need: only models of which `ix_version_needs_machine` says that any version fits.
    """
    v, d = versions.c, verdicts.c
    fits = _wanted(wanted)
    m = _models(wanted, after=after, limit=models, fits=fits if by_need else None).c
    current = and_(
        d.repository_id == v.repository_id,
        d.root == v.digest,
        d.valid_until > now,
        d.policy_hash == m.policy_hash,
        d.trust_hash == m.trust_hash,
    )
    its = (
        select(v.id, v.version, v.number, v.digest, v.created_at, v.declared, v.sort_key, d.admitted)
        .select_from(versions.join(version_needs, _n.version_id == v.id).outerjoin(verdicts, current))
        .where(v.repository_id == m.id, v.state.in_(("received", "live")), fits)
        .order_by(v.sort_key.desc(), v.number.desc())
        .limit(rows if wanted.every else 1)
    )
    if not wanted.every:
        its = its.where(v.prerelease.is_(False), v.deprecated.is_(False))
    if not wanted.refused:
        its = its.where(or_(d.admitted.is_(None), d.admitted))
    if after is not None and after.number is not None:
        its = its.where(or_(m.name != after.model, tuple_(v.sort_key, v.number) < _place(after)))
    e = its.lateral("its").c
    return (
        select(
            e.id.label("version_id"),
            m.id.label("repository_id"),
            m.name.label("model"),
            *(e.version, e.number, e.digest, e.created_at, e.declared, e.admitted),
        )
        .select_from(m.id.table.outerjoin(e.id.table, literal(True)))
        .order_by(m.name, e.sort_key.desc(), e.number.desc())
        .limit(rows)
    )


def _models(wanted: Wanted, *, after: Place | None, limit: int, fits: ColumnElement[bool] | None) -> CTE:
    r = repositories.c
    query = (
        select(r.id, r.name, projects.c.policy_hash, projects.c.trust_hash)
        .join(projects, projects.c.id == r.project_id)
        .order_by(r.name)
        .limit(limit)
    )
    if wanted.project_names is not None:
        query = query.where(projects.c.name.in_(sorted(wanted.project_names)))
    if after is not None:
        query = query.where(r.name > after.model if after.number is None else r.name >= after.model)
    if fits is not None:
        # On its own, or the planner walks through models by name in the hope that the next one fits.
        some = select(_n.repository_id).where(fits).distinct().cte("some").prefix_with("materialized")
        query = query.join(some, some.c.repository_id == r.id)
    return query.cte("models")


def _place(after: Place) -> ScalarSelect[Any]:
    other, its = versions.alias("other"), repositories.alias("its_model")
    return (
        select(other.c.sort_key, other.c.number)
        .join(its, its.c.id == other.c.repository_id)
        .where(its.c.name == after.model, other.c.number == after.number)
        .scalar_subquery()
    )


def _wanted(wanted: Wanted) -> ColumnElement[bool]:
    fits = _fits(wanted.machine)
    return and_(_fits(twice(wanted.machine)), not_(fits)) if wanted.nearly else fits


def _fits(machine: Machine) -> ColumnElement[bool]:
    """Whether the machine lacks nothing of the minimum; what is not known of it is not held against a version."""
    needs: list[ColumnElement[bool]] = [_n.architecture == machine.architecture]
    if machine.cpus is not None:
        needs.append(_n.cpu <= machine.cpus + CPU_SLACK)
    if machine.cpu_features:
        needs.append(_n.cpu_features.contained_by(sorted(machine.cpu_features)))
    if machine.memory is not None:
        needs.append(_n.memory <= machine.memory)
    if machine.disk is not None:
        needs.append(_n.disk <= machine.disk)
    return and_(*needs, *_accelerators(machine))


def _accelerators(machine: Machine) -> list[ColumnElement[bool]]:
    needs: list[ColumnElement[bool]] = [_n.gpu_count <= len(machine.gpus)]
    if not machine.gpus:
        return needs  # whatever needs one is out already
    memories = [device.memory for device in machine.gpus]
    if None not in memories:
        needs.append(_n.gpu_memory <= max(m for m in memories if m is not None))  # for the index
    suitable: ColumnElement[Any] = literal(0)
    for device, count in Counter(map(_kind, machine.gpus)).items():
        suitable = suitable + case((_meets(device), count), else_=0)
    needs.append(_n.gpu_count <= suitable)
    if machine.runtimes is not None:
        known = [
            and_(_n.gpu_runtime == name, _n.gpu_runtime_version <= _integers(numbers_of(version)))
            for name, version in sorted(machine.runtimes.items())
        ]
        needs.append(or_(_n.gpu_runtime.is_(None), *known))
    return needs


def _kind(device: Device) -> Device:
    """Devices that are alike are counted together: what is free on them now plays no part."""
    return Device(device.vendor, device_words(device.name), device.memory, None, device.compute_capability)


def _meets(device: Device) -> ColumnElement[bool]:
    model = func.unnest(_n.gpu_models).column_valued("model")
    named = select(model).where(func.strpos(f" {device.name} ", literal(" ") + model + " ") > 0)
    meets: list[ColumnElement[bool]] = [
        or_(_n.gpu_vendor.is_(None), _n.gpu_vendor == device.vendor),
        or_(func.cardinality(_n.gpu_models) == 0, named.exists()),
    ]
    if device.memory is not None:
        meets.append(_n.gpu_memory <= device.memory)
    if device.compute_capability is not None:
        meets.append(_n.gpu_capability <= _integers(numbers_of(device.compute_capability)))
    return and_(*meets)


def _integers(numbers: tuple[int, ...]) -> ColumnElement[Any]:
    return literal(list(numbers), ARRAY(Integer))
