"""SQL of the hot path: one indexed query tells a reader's manifest or blob with its place and its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, TextClause, column, literal, select, text, true
from sqlalchemy.ext.asyncio import AsyncConnection

from berth.access.authenticate import Lookup
from berth.access.decide import Actor
from berth.access.queries import actor_of_row
from berth.oci.digest import EMPTY_JSON


@dataclass(frozen=True)
class BlobFacts:
    """A blob as one repository sees it.

    `admitted`: a fresh verdict lets it out; False may only mean "ask again". `versioned`: a version holds it, so that
    the gate has something to say about it; in an open project everything else is readable. `location` is None while
    its bytes are at other registries only.
    """

    repository_id: int
    open_project: bool
    digest: str
    size: int
    location: str | None
    read_at: datetime
    admitted: bool
    versioned: bool


@dataclass(frozen=True)
class ManifestFacts:
    """A manifest as one repository sees it, by digest or stored tag."""

    repository_id: int
    open_project: bool
    digest: str
    media_type: str
    body: bytes
    evidence_for: str | None
    admitted: bool
    versioned: bool


# A verdict counts only when it was decided under the project's present policy and keys and has not run out.
_FRESH = "v.admitted and v.valid_until > :now and v.policy_hash = p.policy_hash and v.trust_hash = p.trust_hash"
_ADMITTED = (
    "exists (select 1 from closure c join verdicts v on v.repository_id = c.repository_id and v.root = c.root "
    "join versions n on n.repository_id = c.repository_id and n.digest = c.root and n.state <> 'deleted' "
    f"where c.repository_id = r.id and c.digest = {{digest}} and {_FRESH})"
)

_VERSIONED = (
    "exists (select 1 from closure c join versions n on n.repository_id = c.repository_id and n.digest = c.root "
    "and n.state <> 'deleted' where c.repository_id = r.id and c.digest = {digest})"
)

_BLOB = text(
    "select r.id as repository_id, p.policy->>'preset' = 'open' as open_project, b.digest, b.size, "
    # What is not proven to be theirs comes from their own registries, though the depot may have it from others.
    "case when rb.proven then b.location end as location, b.read_at, "
    + _ADMITTED.format(digest="b.digest")
    + " as admitted, "
    + _VERSIONED.format(digest="b.digest")
    + " as versioned "
    "from repositories r join projects p on p.id = r.project_id "
    "join repository_blobs rb on rb.repository_id = r.id and rb.digest = :digest "
    "join blobs b on b.digest = rb.digest and b.state = 'live' where r.name = :repository"
)

_MANIFEST_COLUMNS = (
    "select r.id as repository_id, p.policy->>'preset' = 'open' as open_project, m.digest, m.media_type, m.body, "
    "rm.evidence_for, "
    + _ADMITTED.format(digest="coalesce(rm.evidence_for, m.digest)")
    + " as admitted, "
    + _VERSIONED.format(digest="coalesce(rm.evidence_for, m.digest)")
    + " as versioned from repositories r join projects p on p.id = r.project_id "
)
_MANIFEST_BY_DIGEST = text(
    _MANIFEST_COLUMNS + "join repository_manifests rm on rm.repository_id = r.id and rm.digest = :reference "
    "join manifests m on m.digest = rm.digest where r.name = :repository"
)
_MANIFEST_BY_TAG = text(
    _MANIFEST_COLUMNS + "join tags g on g.repository_id = r.id and g.name = :reference "
    "join repository_manifests rm on rm.repository_id = r.id and rm.digest = g.digest "
    "join manifests m on m.digest = rm.digest where r.name = :repository"
)


_BLOB_COLUMNS = ("repository_id", "open_project", "digest", "size", "location", "read_at", "admitted", "versioned")
_MANIFEST_COLUMNS_READ = (
    "repository_id",
    "open_project",
    "digest",
    "media_type",
    "body",
    "evidence_for",
    "admitted",
    "versioned",
)


async def blob_facts(conn: AsyncConnection, repository: str, digest: str, now: datetime) -> BlobFacts | None:
    """The blob alone, for callers who know the actor already."""
    row = (await conn.execute(_BLOB, {"repository": repository, "digest": digest, "now": now})).mappings().one_or_none()
    return None if row is None else BlobFacts(**row)


async def manifest_facts(
    conn: AsyncConnection, repository: str, reference: str, now: datetime, *, by_digest: bool
) -> ManifestFacts | None:
    """The manifest alone, for callers who know the actor already."""
    statement = _MANIFEST_BY_DIGEST if by_digest else _MANIFEST_BY_TAG
    rows = await conn.execute(statement, {"repository": repository, "reference": reference, "now": now})
    row = rows.mappings().one_or_none()
    return None if row is None else ManifestFacts(**row)


async def actor_and_blob(
    conn: AsyncConnection, lookup: Lookup, repository: str, digest: str, now: datetime
) -> tuple[Actor | None, BlobFacts | None]:
    """Who asks (epoch, revocation, roles) and what for (place, verdict), in one round trip (design §5)."""
    asked = {"repository": repository, "digest": digest, "now": now}
    row = await _both(conn, lookup, "blob", asked)
    if row["repository_id"] is None:
        return _actor(row, lookup), None
    return _actor(row, lookup), BlobFacts(**{name: row[name] for name in _BLOB_COLUMNS})


async def actor_and_manifest(
    conn: AsyncConnection, lookup: Lookup, repository: str, reference: str, now: datetime, *, by_digest: bool
) -> tuple[Actor | None, ManifestFacts | None]:
    """The same for a manifest by digest or stored tag."""
    asked = {"repository": repository, "reference": reference, "now": now}
    row = await _both(conn, lookup, "manifest by digest" if by_digest else "manifest by tag", asked)
    if row["repository_id"] is None:
        return _actor(row, lookup), None
    return _actor(row, lookup), ManifestFacts(**{name: row[name] for name in _MANIFEST_COLUMNS_READ})


_FACTS: dict[str, tuple[TextClause, tuple[str, ...]]] = {
    "blob": (_BLOB, _BLOB_COLUMNS),
    "manifest by digest": (_MANIFEST_BY_DIGEST, _MANIFEST_COLUMNS_READ),
    "manifest by tag": (_MANIFEST_BY_TAG, _MANIFEST_COLUMNS_READ),
}
# (id of one of the two or three actor statements, what is asked) → the statement that asks both.
_made: dict[tuple[int, str], Select[Any]] = {}


async def _both(conn: AsyncConnection, lookup: Lookup, what: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """One row: the actor's columns as `actor_<name>` and the facts, all null where there is no such thing."""
    question = lookup.question
    key = (id(question.statement), what)
    if key not in _made:
        _made[key] = _joined(question.statement, *_FACTS[what])
    rows = await conn.execute(_made[key], {**question.parameters, **asked})
    return dict(rows.mappings().one())


def _joined(actor: Select[Any], facts: TextClause, names: Sequence[str]) -> Select[Any]:
    who = actor.subquery("who")
    what = facts.columns(*(column(name) for name in names)).subquery("what")
    return (
        select(
            *(column_.label(f"actor_{column_.name}") for column_ in who.c),
            *(what.c[name] for name in names),
        )
        .select_from(select(literal(1).label("one")).subquery("one"))
        .outerjoin(who, true())
        .outerjoin(what, true())
    )


def _actor(row: Mapping[str, Any], lookup: Lookup) -> Actor | None:
    if row["actor_id"] is None:
        return None
    own = {name.removeprefix("actor_"): value for name, value in row.items() if name.startswith("actor_")}
    return actor_of_row(own, lookup.repositories)


async def version_roots(conn: AsyncConnection, repository_id: int, digest: str, limit: int) -> list[str]:
    """Roots of existing versions whose closure holds `digest`, newest first."""
    rows = await conn.scalars(
        text(
            "select n.digest from closure c join versions n on n.repository_id = c.repository_id and n.digest = c.root "
            "where c.repository_id = :repository and c.digest = :digest and n.state <> 'deleted' "
            "group by n.digest order by max(n.number) desc limit :limit"
        ),
        {"repository": repository_id, "digest": digest, "limit": limit},
    )
    return list(rows)


async def evidence_subjects(conn: AsyncConnection, repository_id: int, digest: str) -> list[str]:
    """Subjects of the evidence manifests whose closure holds `digest`."""
    rows = await conn.scalars(
        text(
            "select distinct rm.evidence_for from closure c join repository_manifests rm "
            "on rm.repository_id = c.repository_id and rm.digest = c.root "
            "where c.repository_id = :repository and c.digest = :digest and rm.evidence_for is not null "
            # What content of its own holds too does not leave on the evidence's ticket; the empty config may.
            "and (:digest = :empty or not exists (select 1 from closure d join repository_manifests dm "
            "on dm.repository_id = d.repository_id and dm.digest = d.root and dm.evidence_for is null "
            "where d.repository_id = :repository and d.digest = :digest)) limit 20"
        ),
        {"repository": repository_id, "digest": digest, "empty": EMPTY_JSON},
    )
    return list(rows)


async def direct_holders(conn: AsyncConnection, repository_id: int, digest: str, *, limit: int) -> list[bytes]:
    """Bodies of image manifests whose closure holds a blob, to tell a config from a layer."""
    rows = await conn.scalars(
        text(
            "select m.body from closure c join manifests m on m.digest = c.root and m.role <> 'index' "
            "where c.repository_id = :repository and c.digest = :digest limit :limit"
        ),
        {"repository": repository_id, "digest": digest, "limit": limit},
    )
    return list(rows)


async def has_stored_tag(conn: AsyncConnection, repository_id: int, tag: str) -> bool:
    return (
        await conn.scalar(
            text("select 1 from tags where repository_id = :repository and name = :tag"),
            {"repository": repository_id, "tag": tag},
        )
    ) is not None


async def project_exists(conn: AsyncConnection, name: str) -> bool:
    return (await conn.scalar(text("select 1 from projects where name = :name"), {"name": name})) is not None


async def project_names(conn: AsyncConnection) -> list[str]:
    return list(await conn.scalars(text("select name from projects order by name")))


async def repository_names(conn: AsyncConnection, projects: Sequence[str], *, after: str, limit: int) -> list[str]:
    """Names of repositories that hold a tag, in the C collation's order."""
    rows = await conn.scalars(
        text(
            "select r.name from repositories r join projects p on p.id = r.project_id where p.name = any(:projects) "
            'and r.name collate "C" > :after and exists (select 1 from tags t where t.repository_id = r.id) '
            'order by r.name collate "C" limit :limit'
        ),
        {"projects": list(projects), "after": after, "limit": limit},
    )
    return list(rows)


@dataclass(frozen=True)
class ReferrerRow:
    """One entry of a referrers list."""

    digest: str
    media_type: str
    size: int
    artifact_type: str | None
    annotations: dict[str, str]
    evidence_for: str | None


async def referrers(
    conn: AsyncConnection, repository_id: int, subject: str, *, artifact_type: str | None, after: str, limit: int
) -> list[ReferrerRow]:
    rows = await conn.execute(
        text(
            "select m.digest, m.media_type, m.size, m.artifact_type, m.annotations, rm.evidence_for "
            "from repository_manifests rm join manifests m on m.digest = rm.digest "
            "where rm.repository_id = :repository and rm.subject = :subject and rm.digest > :after "
            "and (cast(:artifact_type as text) is null or m.artifact_type = :artifact_type) "
            "order by rm.digest limit :limit"
        ),
        {
            "repository": repository_id,
            "subject": subject,
            "after": after,
            "limit": limit,
            "artifact_type": artifact_type,
        },
    )
    return [ReferrerRow(**row) for row in rows.mappings()]


# -- uploads -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UploadRow:
    """An upload session; `acknowledged` bytes are durable and were promised to the client."""

    id: str
    repository_id: int
    location: str
    algorithm: str
    acknowledged: int
    fence: int


_UPLOAD = "select u.id, u.repository_id, u.location, u.algorithm, u.acknowledged, u.fence from uploads u "


async def insert_upload(
    conn: AsyncConnection, *, upload_id: str, repository_id: int, location: str, algorithm: str, by: str
) -> None:
    await conn.execute(
        text(
            "insert into uploads (id, repository_id, location, algorithm, started_by) "
            "values (:id, :repository, :location, :algorithm, :by)"
        ),
        {"id": upload_id, "repository": repository_id, "location": location, "algorithm": algorithm, "by": by},
    )


async def upload(conn: AsyncConnection, upload_id: str, repository: str) -> UploadRow | None:
    row = (
        (
            await conn.execute(
                text(
                    _UPLOAD + "join repositories r on r.id = u.repository_id where u.id = :id and r.name = :repository"
                ),
                {"id": upload_id, "repository": repository},
            )
        )
        .mappings()
        .one_or_none()
    )
    return None if row is None else UploadRow(**row)


async def take_fence(conn: AsyncConnection, upload_id: str) -> UploadRow | None:
    """Become the upload's writer: the number returned is the only one that may acknowledge from now on."""
    row = (
        (
            await conn.execute(
                text(
                    "update uploads u set fence = fence + 1, updated_at = now() where id = :id "
                    "returning u.id, u.repository_id, u.location, u.algorithm, u.acknowledged, u.fence"
                ),
                {"id": upload_id},
            )
        )
        .mappings()
        .one_or_none()
    )
    return None if row is None else UploadRow(**row)


async def acknowledge(conn: AsyncConnection, upload_id: str, *, fence: int, size: int) -> bool:
    result = await conn.execute(
        text("update uploads set acknowledged = :size, updated_at = now() where id = :id and fence = :fence"),
        {"id": upload_id, "size": size, "fence": fence},
    )
    return bool(result.rowcount)


async def drop_upload(conn: AsyncConnection, upload_id: str, *, fence: int | None = None) -> bool:
    result = await conn.execute(
        text("delete from uploads where id = :id and (cast(:fence as bigint) is null or fence = :fence)"),
        {"id": upload_id, "fence": fence},
    )
    return bool(result.rowcount)
