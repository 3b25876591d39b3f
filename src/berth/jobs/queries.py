"""Which facts do the scan jobs need? SQL in, facts out (design §6 "Scanning")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from berth.db.tables.content import closure, manifests
from berth.db.tables.evidence import evidence
from berth.db.tables.versions import versions

# Versions whose content is still offered, or may be once it is judged.
_OFFERED = ("received", "live")


@dataclass(frozen=True)
class Leaf:
    """A manifest to scan and where its blobs are: digest → location in the depot."""

    digest: str
    media_type: str
    body: bytes
    locations: Mapping[str, str]


@dataclass(frozen=True)
class Latest:
    """The newest scan of one kind of one leaf."""

    status: str
    finished_at: datetime
    input_version: str


async def manifest(conn: AsyncConnection, digest: str) -> tuple[str, bytes] | None:
    """(media type, body), or None when it is gone."""
    row = (
        await conn.execute(select(manifests.c.media_type, manifests.c.body).where(manifests.c.digest == digest))
    ).one_or_none()
    return (row.media_type, row.body) if row is not None else None


async def latest_scan(conn: AsyncConnection, digest: str, kind: str) -> Latest | None:
    """The newest evidence of that kind, whatever its outcome."""
    row = (
        await conn.execute(
            select(
                evidence.c.status,
                evidence.c.finished_at,
                func.coalesce(evidence.c.database["input_version"].astext, "").label("input_version"),
            )
            .where(evidence.c.digest == digest, evidence.c.kind == kind)
            .order_by(evidence.c.id.desc())
            .limit(1)
        )
    ).one_or_none()
    return Latest(row.status, row.finished_at, row.input_version) if row is not None else None


async def due(
    conn: AsyncConnection,
    *,
    kind: str,
    roles: Sequence[str],
    ok_before: datetime,
    other_before: datetime,
    database_updated_at: str | None,
    limit: int,
) -> list[str]:
    """Leaves of offered versions that have no scan of `kind` or an outdated one; longest waiting first.

    Args:
        roles: roles of manifests that need this kind of scan.
        ok_before: an `ok` scan finished before this is too old.
        other_before: so is an `inconclusive` or `failed` one finished before this.
        database_updated_at: RFC 3339, UTC, whole seconds: scans made with an older vulnerability database are due.
    """
    newest = (
        select(evidence.c.status, evidence.c.finished_at, evidence.c.database["updated_at"].astext.label("database"))
        .where(evidence.c.digest == manifests.c.digest, evidence.c.kind == kind)
        .order_by(evidence.c.id.desc())
        .limit(1)
        .lateral("newest")
    )
    offered = exists(
        select(1)
        .select_from(closure.join(versions, _same_root()))
        .where(closure.c.digest == manifests.c.digest, versions.c.state.in_(_OFFERED))
    )
    reasons: list[Any] = [
        newest.c.status.is_(None),
        and_(newest.c.status == "ok", newest.c.finished_at < ok_before),
        and_(newest.c.status != "ok", newest.c.finished_at < other_before),
    ]
    if database_updated_at is not None:
        # Only where a database was used: without one the scan is not `ok` and comes again soon anyway.
        reasons.append(newest.c.database < database_updated_at)
    rows = await conn.execute(
        select(manifests.c.digest)
        .select_from(manifests.outerjoin(newest, _always()))
        .where(manifests.c.role.in_(roles), offered, or_(*reasons))
        .order_by(newest.c.finished_at.asc().nulls_first(), manifests.c.digest)
        .limit(limit)
    )
    return [row.digest for row in rows]


def _same_root() -> Any:
    return and_(versions.c.repository_id == closure.c.repository_id, versions.c.digest == closure.c.root)


def _always() -> Any:
    return func.coalesce(True, True)
