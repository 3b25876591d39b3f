"""SQL of imports: what is known of a repository, and the run itself."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from berth.sync.importing.decide import Known


async def known_versions(conn: AsyncConnection, repository: str, *, registry: str) -> dict[str, Known]:
    """Every version number ever received in a repository."""
    rows = await conn.execute(
        text(
            "select v.version, v.digest, v.state = 'deleted' as deleted, exists (select 1 from placements l "
            "where l.version_id = v.id and l.registry = :registry and l.repository = :repository "
            "and l.state = 'published') as placed "
            "from versions v join repositories r on r.id = v.repository_id where r.name = :repository"
        ),
        {"repository": repository, "registry": registry},
    )
    return {row.version: Known(row.digest, row.deleted, row.placed) for row in rows}


async def proven_blobs(conn: AsyncConnection, project: str, digests: Collection[str]) -> set[str]:
    """Those of these blobs that the project has shown to hold: by a push, or by a fetch from one of its places."""
    rows = await conn.scalars(
        text(
            "select distinct rb.digest from repository_blobs rb join repositories r on r.id = rb.repository_id "
            "join projects p on p.id = r.project_id where p.name = :project and rb.digest = any(:digests) and rb.proven"
        ),
        {"project": project, "digests": list(digests)},
    )
    return set(rows)


async def contradicted(conn: AsyncConnection, sizes: Mapping[str, int]) -> set[str]:
    """Those of these blobs that are known here with another size than this."""
    rows = await conn.execute(
        text("select digest, size from blobs where digest = any(:digests)"), {"digests": list(sizes)}
    )
    return {row.digest for row in rows if row.size != sizes[row.digest]}


async def insert_import(
    conn: AsyncConnection,
    *,
    registry: str,
    project_id: int | None,
    terms: Mapping[str, Any],
    dry_run: bool,
    started_by: str,
) -> int | None:
    """A new run; None while another import from this registry is under way."""
    made = await conn.execute(
        text(
            "insert into sync_runs (registry, project_id, terms, kind, started_by) "
            "values (:registry, :project, cast(:terms as jsonb), :kind, :by) "
            "on conflict (registry) where kind = 'import' and state in ('queued','running') do nothing returning id"
        ),
        {
            "registry": registry,
            "project": project_id,
            "terms": json.dumps(dict(terms)),
            "kind": "import-plan" if dry_run else "import",
            "by": started_by,
        },
    )
    row = made.first()
    return None if row is None else int(row[0])
