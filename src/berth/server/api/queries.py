"""How are models, versions, aliases, evidence and decisions listed for the API? Read-only SQL, keyset-paged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, and_, func, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection as AsyncConnection

from berth.db.tables import (
    alias_moves,
    aliases,
    approvals,
    blobs,
    closure,
    evidence,
    manifests,
    projects,
    repositories,
    signatures,
    trusted_keys,
    verdicts,
    versions,
)
from berth.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class ModelItem:
    """A repository in a list, with its latest arrival (None: no version yet)."""

    id: int
    name: str
    kind: str | None
    overlay: Mapping[str, Any]
    created_at: datetime
    newest_version: str | None
    newest_number: int | None
    newest_at: datetime | None


@dataclass(frozen=True, slots=True)
class VersionItem:
    """A version in a list. `admitted` is None when its stored verdict no longer counts and must be decided again."""

    id: int
    version: str
    digest: str
    number: int
    state: str
    approval: str
    deprecated: bool
    declared: Mapping[str, Any]
    overlay: Mapping[str, Any]
    pushed_by: str
    created_at: datetime
    admitted: bool | None


@dataclass(frozen=True, slots=True)
class AliasItem:
    name: str
    version: str
    digest: str
    moved_at: datetime
    moved_by: str


@dataclass(frozen=True, slots=True)
class AliasMove:
    id: int
    version: str | None
    digest: str | None
    moved_at: datetime
    moved_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class EvidenceItem:
    id: int
    digest: str
    kind: str
    status: str
    summary: Mapping[str, Any]
    tool: str
    tool_version: str
    database: Mapping[str, Any]
    started_at: datetime
    finished_at: datetime
    report: str | None
    report_media_type: str | None
    log: str


@dataclass(frozen=True, slots=True)
class ReportPlace:
    """Where the bytes of a report are."""

    digest: str
    location: str
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class SignatureItem:
    id: int
    subject: str
    kind: str
    manifest: str
    predicate_type: str | None
    key_id: str | None
    key_name: str | None
    verdict: str
    reason: str
    pushed_by: str
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class ApprovalItem:
    id: int
    digest: str
    decision: str
    principal: str
    note: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class KeyItem:
    id: int
    name: str
    public_key: str
    key_id: str
    predicates: list[str]
    added_by: str
    added_at: datetime


async def list_models(conn: AsyncConnection, project_id: int, *, after: str | None, limit: int) -> list[ModelItem]:
    """Repositories of a project by name, behind the repository name `after`."""
    newest = (
        select(versions.c.version, versions.c.number, versions.c.created_at)
        .where(versions.c.repository_id == repositories.c.id, versions.c.state != "deleted")
        .order_by(versions.c.number.desc())
        .limit(1)
        .lateral("newest")
    )
    query = (
        select(
            repositories.c.id,
            repositories.c.name,
            repositories.c.kind,
            repositories.c.overlay,
            repositories.c.created_at,
            newest.c.version.label("newest_version"),
            newest.c.number.label("newest_number"),
            newest.c.created_at.label("newest_at"),
        )
        .select_from(repositories.outerjoin(newest, text("true")))
        .where(repositories.c.project_id == project_id)
        .order_by(repositories.c.name)
        .limit(limit)
    )
    if after is not None:
        query = query.where(repositories.c.name > after)
    return [ModelItem(**row) for row in (await conn.execute(query)).mappings()]


async def model_overlay(
    conn: AsyncConnection, repository_id: int, *, lock: bool = False
) -> tuple[Mapping[str, Any], datetime]:
    """The editable overlay of a model and when the model was made. `lock` holds it until the transaction ends."""
    query = select(repositories.c.overlay, repositories.c.created_at).where(repositories.c.id == repository_id)
    row = (await conn.execute(query.with_for_update() if lock else query)).one()
    return row.overlay, row.created_at


async def set_model_overlay(conn: AsyncConnection, repository_id: int, overlay: Mapping[str, Any]) -> None:
    await conn.execute(repositories.update().where(repositories.c.id == repository_id).values(overlay=dict(overlay)))


async def count_versions(conn: AsyncConnection, repository_id: int) -> int:
    """How many versions exist; deleted ones do not count."""
    query = select(func.count()).where(versions.c.repository_id == repository_id, versions.c.state != "deleted")
    return int((await conn.execute(query)).scalar_one())


async def list_versions(
    conn: AsyncConnection,
    repository_id: int,
    *,
    now: datetime,
    after: int | None,
    limit: int,
    deleted: bool = False,
) -> list[VersionItem]:
    """Versions in falling precedence, behind the one numbered `after`; deleted ones only when asked for."""
    current = and_(
        verdicts.c.valid_until > now,
        verdicts.c.policy_hash == projects.c.policy_hash,
        verdicts.c.trust_hash == projects.c.trust_hash,
    )
    query = (
        select(
            *(versions.c[name] for name in _VERSION_FIELDS),
            verdicts.c.admitted,
        )
        .select_from(
            versions.join(repositories, repositories.c.id == versions.c.repository_id)
            .join(projects, projects.c.id == repositories.c.project_id)
            .outerjoin(
                verdicts,
                and_(
                    verdicts.c.repository_id == versions.c.repository_id, verdicts.c.root == versions.c.digest, current
                ),
            )
        )
        .where(versions.c.repository_id == repository_id)
        .order_by(versions.c.sort_key.desc(), versions.c.number.desc())
        .limit(limit)
    )
    if not deleted:
        query = query.where(versions.c.state != "deleted")
    if after is not None:
        place = select(versions.c.sort_key, versions.c.number).where(
            versions.c.repository_id == repository_id, versions.c.number == after
        )
        query = query.where(tuple_(versions.c.sort_key, versions.c.number) < place.scalar_subquery())
    return [VersionItem(**row) for row in (await conn.execute(query)).mappings()]


_VERSION_FIELDS: Final = (
    "id",
    "version",
    "digest",
    "number",
    "state",
    "approval",
    "deprecated",
    "declared",
    "overlay",
    "pushed_by",
    "created_at",
)


_ALIAS_ITEMS: Final = select(
    aliases.c.name, versions.c.version, versions.c.digest, aliases.c.moved_at, aliases.c.moved_by
).select_from(aliases.join(versions, versions.c.id == aliases.c.version_id))


async def list_aliases(conn: AsyncConnection, repository_id: int, *, after: str | None, limit: int) -> list[AliasItem]:
    query = _ALIAS_ITEMS.where(aliases.c.repository_id == repository_id).order_by(aliases.c.name).limit(limit)
    if after is not None:
        query = query.where(aliases.c.name > after)
    return [AliasItem(**row) for row in (await conn.execute(query)).mappings()]


async def alias_item(conn: AsyncConnection, repository_id: int, name: str) -> AliasItem | None:
    query = _ALIAS_ITEMS.where(aliases.c.repository_id == repository_id, aliases.c.name == name)
    row = (await conn.execute(query)).mappings().one_or_none()
    return None if row is None else AliasItem(**row)


async def list_alias_moves(
    conn: AsyncConnection, repository_id: int, name: str, *, at: datetime | None, after: int | None, limit: int
) -> list[AliasMove]:
    """Where an alias pointed, newest first; with `at` from what held at that instant on."""
    query = (
        select(
            alias_moves.c.id,
            versions.c.version,
            versions.c.digest,
            alias_moves.c.moved_at,
            alias_moves.c.moved_by,
            alias_moves.c.reason,
        )
        .select_from(alias_moves.outerjoin(versions, versions.c.id == alias_moves.c.version_id))
        .where(alias_moves.c.repository_id == repository_id, alias_moves.c.name == name)
        .order_by(alias_moves.c.id.desc())
        .limit(limit)
    )
    if at is not None:
        query = query.where(alias_moves.c.moved_at <= at)
    if after is not None:
        query = query.where(alias_moves.c.id < after)
    return [AliasMove(**row) for row in (await conn.execute(query)).mappings()]


def _below(repository_id: int, root: str) -> Select[Any]:
    """Digests of every manifest below `root`, itself included."""
    return select(closure.c.digest).where(
        closure.c.repository_id == repository_id, closure.c.root == root, closure.c.is_manifest
    )


async def list_evidence(
    conn: AsyncConnection, repository_id: int, root: str, *, after: int | None, limit: int
) -> list[EvidenceItem]:
    """What our scanners found in any manifest below `root`, newest first."""
    query = (
        select(*(evidence.c[name] for name in EvidenceItem.__dataclass_fields__))
        .where(evidence.c.digest.in_(_below(repository_id, root)))
        .order_by(evidence.c.id.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(evidence.c.id < after)
    return [EvidenceItem(**row) for row in (await conn.execute(query)).mappings()]


async def report_place(conn: AsyncConnection, repository_id: int, root: str, *, evidence_id: int) -> ReportPlace | None:
    """Where the report of one piece of evidence is; None unless it is about a manifest below `root`."""
    query = (
        select(blobs.c.digest, blobs.c.location, blobs.c.size, evidence.c.report_media_type)
        .select_from(evidence.join(blobs, and_(blobs.c.digest == evidence.c.report, blobs.c.state == "live")))
        .where(
            evidence.c.id == evidence_id,
            evidence.c.digest.in_(_below(repository_id, root)),
            blobs.c.location.is_not(None),
        )
    )
    row = (await conn.execute(query)).one_or_none()
    if row is None:
        return None
    return ReportPlace(row.digest, row.location, row.size, row.report_media_type or "application/octet-stream")


async def list_signatures(
    conn: AsyncConnection, repository_id: int, root: str, *, after: int | None, limit: int
) -> list[SignatureItem]:
    """Every signature seen on `root` or on a manifest below it, oldest first, with the name of the key if trusted."""
    key_name = (
        select(trusted_keys.c.name)
        .select_from(trusted_keys.join(repositories, repositories.c.project_id == trusted_keys.c.project_id))
        .where(
            repositories.c.id == signatures.c.repository_id,
            trusted_keys.c.key_id == signatures.c.key_id,
            trusted_keys.c.revoked_at.is_(None),
        )
        .order_by(trusted_keys.c.id)
        .limit(1)
        .scalar_subquery()
    )
    columns = [name for name in SignatureItem.__dataclass_fields__ if name != "key_name"]
    query = (
        select(*(signatures.c[name] for name in columns), key_name.label("key_name"))
        .where(signatures.c.repository_id == repository_id, signatures.c.subject.in_(_below(repository_id, root)))
        .order_by(signatures.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(signatures.c.id > after)
    return [SignatureItem(**row) for row in (await conn.execute(query)).mappings()]


async def list_approvals(
    conn: AsyncConnection, repository_id: int, digest: str, *, after: int | None, limit: int
) -> list[ApprovalItem]:
    """What people decided about a digest in this repository, newest first."""
    query = (
        select(*(approvals.c[name] for name in ApprovalItem.__dataclass_fields__))
        .where(approvals.c.repository_id == repository_id, approvals.c.digest == digest)
        .order_by(approvals.c.id.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(approvals.c.id < after)
    return [ApprovalItem(**row) for row in (await conn.execute(query)).mappings()]


async def list_keys(conn: AsyncConnection, project_id: int, *, after: str | None, limit: int) -> list[KeyItem]:
    """The keys that a project trusts now, by name."""
    query = (
        select(*(trusted_keys.c[name] for name in KeyItem.__dataclass_fields__))
        .where(trusted_keys.c.project_id == project_id, trusted_keys.c.revoked_at.is_(None))
        .order_by(trusted_keys.c.name)
        .limit(limit)
    )
    if after is not None:
        query = query.where(trusted_keys.c.name > after)
    return [KeyItem(**row) for row in (await conn.execute(query)).mappings()]


async def media_type_and_size(conn: AsyncConnection, repository_id: int, root: str) -> tuple[str, int]:
    """Media type of `root`, and the bytes of everything in its closure that is stored as a blob."""
    media_type = select(manifests.c.media_type).where(manifests.c.digest == root)
    total = (
        select(func.coalesce(func.sum(blobs.c.size), 0))
        .select_from(closure.join(blobs, blobs.c.digest == closure.c.digest))
        .where(closure.c.repository_id == repository_id, closure.c.root == root, closure.c.is_manifest.is_(False))
    )
    row = (await conn.execute(select(media_type.scalar_subquery(), total.scalar_subquery()))).one()
    return row[0] or "", int(row[1])


async def content_of(conn: AsyncConnection, repository: str, tag: str) -> list[Descriptor]:
    """Every manifest and blob below a tag; empty when there is no such tag here."""
    rows = await conn.execute(
        text(
            "select coalesce(m.media_type, 'application/octet-stream'), c.digest, coalesce(m.size, b.size) "
            "from repositories r join tags t on t.repository_id = r.id and t.name = :tag "
            "join closure c on c.repository_id = r.id and c.root = t.digest "
            "left join manifests m on c.is_manifest and m.digest = c.digest "
            "left join blobs b on not c.is_manifest and b.digest = c.digest "
            "where r.name = :repository and coalesce(m.size, b.size) is not null order by c.digest"
        ),
        {"repository": repository, "tag": tag},
    )
    return [Descriptor(media_type, digest, size) for media_type, digest, size in rows]


async def schema_revision(conn: AsyncConnection) -> str | None:
    """The revision that the database's tables are at; None when there are none."""
    if (await conn.execute(text("select to_regclass('alembic_version')"))).scalar_one() is None:
        return None
    return (await conn.execute(text("select version_num from alembic_version"))).scalar_one_or_none()


async def answers(conn: AsyncConnection) -> None:
    """Return when the database has answered."""
    await conn.execute(text("select 1"))
