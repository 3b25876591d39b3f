"""SQL of moving: what a version consists of, with all that was said about it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from berth.sync.queries import withheld


@dataclass(frozen=True)
class Held:
    """A manifest of a repository. `tags`: its signature tags; `about`: what it is evidence about."""

    digest: str
    media_type: str
    artifact_type: str | None
    body: bytes
    about: str | None
    subject: str | None
    pushed_by: str
    made: str
    tags: Sequence[str]


_HELD = """
    select m.digest, m.media_type, m.artifact_type, m.body, rm.evidence_for as about, rm.subject, rm.pushed_by,
           coalesce(m.annotations ->> 'org.opencontainers.image.created', '') as made,
           array(select t.name from tags t where t.repository_id = rm.repository_id and t.digest = rm.digest
                  and left(t.name, 7) = 'sha256-' order by t.name) as tags
      from repository_manifests rm join manifests m on m.digest = rm.digest
"""


async def tree(conn: AsyncConnection, repository_id: int, root: str) -> list[Held]:
    """A root and every manifest below it."""
    rows = await conn.execute(
        text(
            _HELD + "join closure c on c.repository_id = rm.repository_id and c.digest = rm.digest and c.is_manifest "
            "where rm.repository_id = :repository and c.root = :root order by m.digest"
        ),
        {"repository": repository_id, "root": root},
    )
    return [Held(**row._mapping) for row in rows]


async def evidence(
    conn: AsyncConnection, repository_id: int, subjects: Collection[str], *, root: str, now: datetime
) -> list[Held]:
    """What a repository holds as evidence about these manifests, and may leave beside the version `root`."""
    rows = await conn.execute(
        text(
            _HELD
            + "where rm.repository_id = :repository and rm.evidence_for = any(:subjects) and not "
            + withheld(repository="rm.repository_id", digest="rm.digest", root=":root")
            + " order by m.digest"
        ),
        {"repository": repository_id, "subjects": list(subjects), "root": root, "now": now},
    )
    return [Held(**row._mapping) for row in rows]


async def blobs_linked(conn: AsyncConnection, repository_id: int, digests: Collection[str]) -> frozenset[str]:
    """Which of these blobs a repository holds, ready to be read."""
    rows = await conn.scalars(
        text(
            "select b.digest from repository_blobs rb join blobs b on b.digest = rb.digest "
            "where rb.repository_id = :repository and b.digest = any(:digests) and b.state = 'live'"
        ),
        {"repository": repository_id, "digests": list(digests)},
    )
    return frozenset(rows)
