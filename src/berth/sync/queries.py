"""SQL of the depot seen as a registry: what it holds, and what plans ask about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from berth.oci.digest import EMPTY_JSON


async def repository_names(conn: AsyncConnection, *, after: str, limit: int) -> list[str]:
    """Names of repositories that hold a manifest, in the C collation's order."""
    rows = await conn.scalars(
        text(
            'select r.name from repositories r where r.name collate "C" > :after and exists '
            "(select 1 from repository_manifests rm where rm.repository_id = r.id) "
            'order by r.name collate "C" limit :limit'
        ),
        {"after": after, "limit": limit},
    )
    return list(rows)


# Whether a manifest that is about another one must stay although that one leaves, as the gateway has it for readers:
# it is no evidence but content of its own (in open projects: only where a version that is denied holds it), or it
# names as its own what is content elsewhere. What an admitted version, or the one it goes with, holds may leave.
_WITHHELD = """exists (
    select 1 from repository_manifests w
      join repositories wr on wr.id = w.repository_id
      join projects wp on wp.id = wr.project_id
     where w.repository_id = {repository} and w.digest = {digest} and (
        (w.evidence_for is null and wp.policy ->> 'preset' <> 'open')
        or exists (
        select 1 from closure wc
         where wc.repository_id = w.repository_id and wc.root = w.digest and wc.digest <> '{empty}'
           and exists (
               select 1 from closure o
                 join repository_manifests om on om.repository_id = o.repository_id and om.digest = o.root
                where o.repository_id = wc.repository_id and o.digest = wc.digest and om.evidence_for is null
                  and case when wp.policy ->> 'preset' = 'open' then exists (
                        select 1 from versions ov where ov.repository_id = o.repository_id and ov.digest = o.root
                           and ov.state <> 'deleted')
                      else true end)
           and not exists (
               select 1 from closure own where own.repository_id = wc.repository_id and own.root = {root}
                  and own.digest = wc.digest)
           and not exists (
               select 1 from closure a
                 join verdicts av on av.repository_id = a.repository_id and av.root = a.root
                 join versions an on an.repository_id = a.repository_id and an.digest = a.root
                where a.repository_id = wc.repository_id and a.digest = wc.digest and an.state <> 'deleted'
                  and av.admitted and av.valid_until > :now
                  and av.policy_hash = wp.policy_hash and av.trust_hash = wp.trust_hash))))"""


def withheld(*, repository: str, digest: str, root: str) -> str:
    """SQL that is true where a manifest may not leave beside a version; names of columns in, and `:now`."""
    return _WITHHELD.format(repository=repository, digest=digest, root=root, empty=EMPTY_JSON)


async def may_leave(
    conn: AsyncConnection, repository_id: int, digests: Collection[str], *, root: str, now: datetime
) -> frozenset[str]:
    """Those of these manifests that may leave beside a version."""
    rows = await conn.scalars(
        text(
            "select m.digest from repository_manifests m where m.repository_id = :repository "
            "and m.digest = any(:digests) and not "
            + withheld(repository="m.repository_id", digest="m.digest", root=":root")
        ),
        {"repository": repository_id, "digests": list(digests), "root": root, "now": now},
    )
    return frozenset(rows)


async def referrer_digests(conn: AsyncConnection, repository_id: int, subject: str) -> list[str]:
    """Digests of the manifests whose subject this is."""
    rows = await conn.scalars(
        text("select digest from repository_manifests where repository_id = :r and subject = :s order by digest"),
        {"r": repository_id, "s": subject},
    )
    return list(rows)


# -- listing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DepotTag:
    """A tag of the depot, or the number of a deleted version. `admitted` is None where the verdict is not fresh."""

    repository_id: int
    repository: str
    tag: str
    digest: str
    deleted: bool
    labels: Mapping[str, Any]
    aliases: Sequence[str]
    admitted: bool | None


async def depot_tags(conn: AsyncConnection, project: str, *, repository: str | None, now: datetime) -> list[DepotTag]:
    """Every tag of a project's repositories with what plans ask about it, and the numbers that deletion burnt."""
    rows = await conn.execute(
        text(
            """
            select r.id as repository_id, r.name as repository, t.name as tag, t.digest, false as deleted,
                   coalesce(v.declared -> 'labels', '{}') as declared, coalesce(v.overlay -> 'labels', '{}') as overlay,
                   array(select a.name from aliases a where a.version_id = v.id) as aliases, d.admitted
              from repositories r
              join projects p on p.id = r.project_id
              join tags t on t.repository_id = r.id
              left join versions v on v.repository_id = r.id and v.version = replace(t.name, '_', '+')
              left join verdicts d on d.repository_id = r.id and d.root = t.digest and d.valid_until > :now
                   and d.policy_hash = p.policy_hash and d.trust_hash = p.trust_hash
             where p.name = :project and left(t.name, 7) <> 'sha256-'
               and (cast(:repository as text) is null or r.name = :repository)
            union all
            select r.id, r.name, replace(v.version, '+', '_'), v.digest, true, '{}', '{}', array[]::text[], false
              from repositories r
              join projects p on p.id = r.project_id
              join versions v on v.repository_id = r.id and v.state = 'deleted'
             where p.name = :project and (cast(:repository as text) is null or r.name = :repository)
            """
        ),
        {"project": project, "repository": repository, "now": now},
    )
    return [
        DepotTag(
            row.repository_id,
            row.repository,
            row.tag,
            row.digest,
            row.deleted,
            {**_object(row.declared), **_object(row.overlay)},
            row.aliases,
            row.admitted,
        )
        for row in rows
    ]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


async def depot_evidence(
    conn: AsyncConnection, project: str, *, repository: str | None, now: datetime
) -> dict[tuple[str, str], frozenset[str]]:
    """(repository, root) → digests of what refers to the root or a manifest below it and may leave with it."""
    rows = await conn.execute(
        text(
            f"""
            with roots as materialized (
                   select distinct r.id, r.name, t.digest as root
                     from repositories r
                     join projects p on p.id = r.project_id
                     join tags t on t.repository_id = r.id
                    where p.name = :project and left(t.name, 7) <> 'sha256-'
                      and (cast(:repository as text) is null or r.name = :repository)),
                 found as materialized (
                   select distinct r.id, r.name, r.root, e.digest
                     from roots r
                     join closure c on c.repository_id = r.id and c.root = r.root and c.is_manifest
                     join lateral (
                          select m.digest from repository_manifests m
                           where m.repository_id = r.id and m.subject = c.digest
                          union all
                          select s.digest from tags s
                           where s.repository_id = r.id and s.name in (
                                 replace(c.digest, ':', '-') || '.sig', replace(c.digest, ':', '-') || '.att',
                                 replace(c.digest, ':', '-') || '.sbom')
                     ) e on true)
            select f.name, f.root, array_agg(f.digest) as digests
              from found f
             where not {withheld(repository="f.id", digest="f.digest", root="f.root")}
             group by 1, 2
            """
        ),
        {"project": project, "repository": repository, "now": now},
    )
    return {(row.name, row.root): frozenset(row.digests) for row in rows}


async def manifests_held(conn: AsyncConnection, repository: str, digests: Collection[str]) -> frozenset[str]:
    """Which of these manifests a repository of the depot holds."""
    rows = await conn.scalars(
        text(
            "select m.digest from repository_manifests m join repositories r on r.id = m.repository_id "
            "where r.name = :repository and m.digest = any(:digests)"
        ),
        {"repository": repository, "digests": list(digests)},
    )
    return frozenset(rows)
