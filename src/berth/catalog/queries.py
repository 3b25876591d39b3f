"""SQL of the catalogue: repositories, content links, tags, versions, aliases. Facts out, no decisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, delete, func, insert, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from berth.db import tables as t


@dataclass(frozen=True)
class RepositoryRow:
    """A repository with what its project says about it."""

    id: int
    name: str
    kind: str | None
    project_id: int
    project: str
    open_project: bool


@dataclass(frozen=True)
class VersionRow:
    """A version as the catalogue keeps it (without its verdict)."""

    id: int
    repository_id: int
    repository: str
    kind: str | None
    version: str
    digest: str
    number: int
    state: str
    approval: str
    deprecated: bool
    prerelease: bool
    declared: dict[str, Any]
    overlay: dict[str, Any]
    pushed_by: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class ManifestRow:
    """A manifest within a repository."""

    digest: str
    media_type: str
    role: str
    size: int
    body: bytes
    artifact_type: str | None
    subject: str | None
    annotations: dict[str, str]
    evidence_for: str | None


# -- repositories ------------------------------------------------------------------------------------------------

_REPOSITORY = (
    select(
        t.repositories.c.id,
        t.repositories.c.name,
        t.repositories.c.kind,
        t.repositories.c.project_id,
        t.projects.c.name.label("project"),
        (t.projects.c.policy["preset"].astext == "open").label("open_project"),
    )
    .join(t.projects, t.projects.c.id == t.repositories.c.project_id)
    .limit(1)
)


async def repository(conn: AsyncConnection, name: str) -> RepositoryRow | None:
    row = (await conn.execute(_REPOSITORY.where(t.repositories.c.name == name))).mappings().one_or_none()
    return None if row is None else RepositoryRow(**row)


async def project_exists(conn: AsyncConnection, name: str) -> bool:
    return await conn.scalar(select(t.projects.c.id).where(t.projects.c.name == name)) is not None


async def ensure_repository(conn: AsyncConnection, name: str) -> RepositoryRow | None:
    """The repository, made on first use; None when its project does not exist."""
    found = await repository(conn, name)
    if found is not None:
        return found
    project_id = await conn.scalar(select(t.projects.c.id).where(t.projects.c.name == name.partition("/")[0]))
    if project_id is None:
        return None
    await conn.execute(
        upsert(t.repositories).values(project_id=project_id, name=name).on_conflict_do_nothing(index_elements=["name"])
    )
    return await repository(conn, name)


async def lock_repository(conn: AsyncConnection, repository_id: int) -> None:
    """Serialise version creation within one repository; rows that only refer to it are not held up."""
    await conn.execute(
        select(t.repositories.c.id).where(t.repositories.c.id == repository_id).with_for_update(key_share=True)
    )


async def fix_kind(conn: AsyncConnection, repository_id: int, kind: str) -> None:
    await conn.execute(
        update(t.repositories)
        .where(t.repositories.c.id == repository_id, t.repositories.c.kind.is_(None))
        .values(kind=kind)
    )


# -- blobs -------------------------------------------------------------------------------------------------------


async def lock_linked_blobs(conn: AsyncConnection, repository_id: int, digests: Iterable[str]) -> dict[str, int]:
    """digest → size of the live blobs linked to the repository, locked so that clean-up waits (design §5)."""
    wanted = sorted(set(digests))
    if not wanted:
        return {}
    rows = await conn.execute(
        text(
            "select b.digest, b.size from blobs b join repository_blobs rb on rb.digest = b.digest "
            "where rb.repository_id = :repository and b.digest = any(:digests) and b.state = 'live' "
            "order by b.digest for share of b"
        ),
        {"repository": repository_id, "digests": wanted},
    )
    return {row.digest: row.size for row in rows}


async def blob_places(conn: AsyncConnection, digests: Iterable[str]) -> dict[str, tuple[str | None, int]]:
    """digest → (location, size) of live blobs, wherever they are linked; no location: not in the depot."""
    wanted = sorted(set(digests))
    rows = await conn.execute(
        select(t.blobs.c.digest, t.blobs.c.location, t.blobs.c.size).where(
            t.blobs.c.digest.in_(wanted), t.blobs.c.state == "live"
        )
    )
    return {row.digest: (row.location, row.size) for row in rows}


async def linked_places(
    conn: AsyncConnection, repository_id: int, digests: Iterable[str]
) -> dict[str, tuple[str | None, int]]:
    """The same, only for blobs linked to this repository; no location: not in the depot, or not proven to be theirs."""
    rows = await conn.execute(
        select(
            t.blobs.c.digest,
            case((t.repository_blobs.c.proven, t.blobs.c.location)).label("location"),
            t.blobs.c.size,
        )
        .join(t.repository_blobs, t.repository_blobs.c.digest == t.blobs.c.digest)
        .where(
            t.repository_blobs.c.repository_id == repository_id,
            t.blobs.c.digest.in_(sorted(set(digests))),
            t.blobs.c.state == "live",
        )
    )
    return {row.digest: (row.location, row.size) for row in rows}


async def insert_blob(conn: AsyncConnection, *, digest: str, size: int, location: str, lease_until: datetime) -> None:
    statement = upsert(t.blobs).values(digest=digest, size=size, location=location, lease_until=lease_until)
    await conn.execute(
        statement.on_conflict_do_update(
            index_elements=["digest"],
            set_={
                "lease_until": func.greatest(t.blobs.c.lease_until, statement.excluded.lease_until),
                "location": func.coalesce(t.blobs.c.location, statement.excluded.location),
            },
        )
    )


async def homeless(conn: AsyncConnection, digests: Iterable[str]) -> set[str]:
    """Those of these blobs that are neither in the depot nor at a registry that is known to hold them.

    Until the transaction ends nobody withdraws a copy that was counted on.
    """
    away = set(
        await conn.scalars(
            select(t.blobs.c.digest).where(t.blobs.c.digest.in_(sorted(set(digests))), t.blobs.c.location.is_(None))
        )
    )
    if not away:
        return set()
    placed = await conn.execute(
        text(
            "select c.digest from closure c "
            "join versions v on v.repository_id = c.repository_id and v.digest = c.root and v.state <> 'deleted' "
            "join placements l on l.version_id = v.id and l.state = 'published' "
            "join registries g on g.name = l.registry and g.kind <> 'daemon' "
            "where c.digest = any(:digests) for share of l, g"
        ),
        {"digests": sorted(away)},
    )
    return away - {row.digest for row in placed}


async def know_blob(conn: AsyncConnection, *, digest: str, size: int, lease_until: datetime) -> int:
    """A blob that is somewhere else is one of ours from now on; returns the size that we know it with."""
    row = await blob_state(conn, digest)
    if row is not None and row.state == "deleting":
        # Whoever is removing its bytes sees under the digest's lock that the row is wanted again, without them.
        await conn.execute(
            text("update blobs set state = 'live', location = null, lease_until = :lease where digest = :digest"),
            {"digest": digest, "lease": lease_until},
        )
    elif row is not None:
        await renew_lease(conn, digest, lease_until, unless_after=lease_until)
    else:
        await conn.execute(insert(t.blobs).values(digest=digest, size=size, lease_until=lease_until))
    return size if row is None else row.size


async def link_blob(conn: AsyncConnection, repository_id: int, digest: str, *, proven: bool = True) -> None:
    """The repository may name the blob. `proven`: whoever links it has shown its bytes, or may read them."""
    statement = upsert(t.repository_blobs).values(repository_id=repository_id, digest=digest, proven=proven)
    await conn.execute(
        statement.on_conflict_do_update(
            index_elements=["repository_id", "digest"],
            set_={"linked_at": func.now(), "proven": or_(t.repository_blobs.c.proven, statement.excluded.proven)},
        )
    )


async def unproven(conn: AsyncConnection, repository_id: int, digests: Iterable[str]) -> set[str]:
    """Those of these blobs that the repository names only because a registry said that it holds them."""
    rows = await conn.scalars(
        select(t.repository_blobs.c.digest).where(
            t.repository_blobs.c.repository_id == repository_id,
            t.repository_blobs.c.digest.in_(sorted(set(digests))),
            ~t.repository_blobs.c.proven,
        )
    )
    return set(rows)


async def unlink_blob(conn: AsyncConnection, repository_id: int, digest: str) -> bool:
    result = await conn.execute(
        delete(t.repository_blobs).where(
            t.repository_blobs.c.repository_id == repository_id, t.repository_blobs.c.digest == digest
        )
    )
    return bool(result.rowcount)


async def blob_in_use(conn: AsyncConnection, repository_id: int, digest: str) -> bool:
    """True when a manifest of the repository names the blob."""
    found = await conn.scalar(
        select(t.closure.c.root)
        .where(t.closure.c.repository_id == repository_id, t.closure.c.digest == digest)
        .limit(1)
    )
    return found is not None


# -- manifests ---------------------------------------------------------------------------------------------------


async def insert_manifest(conn: AsyncConnection, values: dict[str, Any]) -> None:
    await conn.execute(upsert(t.manifests).values(values).on_conflict_do_nothing(index_elements=["digest"]))


async def link_manifest(conn: AsyncConnection, values: dict[str, Any]) -> None:
    statement = upsert(t.repository_manifests).values(values)
    await conn.execute(
        statement.on_conflict_do_update(
            index_elements=["repository_id", "digest"],
            set_={
                "pushed_at": func.now(),  # a push again renews the grace period of an untagged manifest
                "evidence_for": func.coalesce(t.repository_manifests.c.evidence_for, statement.excluded.evidence_for),
            },
        )
    )


async def children_present(conn: AsyncConnection, repository_id: int, digests: Iterable[str]) -> set[str]:
    wanted = sorted(set(digests))
    if not wanted:
        return set()
    rows = await conn.scalars(
        select(t.repository_manifests.c.digest)
        .where(t.repository_manifests.c.repository_id == repository_id, t.repository_manifests.c.digest.in_(wanted))
        .with_for_update(read=True)
    )
    return set(rows)


async def index_bodies(conn: AsyncConnection, digests: Sequence[str]) -> list[bytes]:
    """Bodies of those manifests that are indexes."""
    if not digests:
        return []
    return list(
        await conn.scalars(
            select(t.manifests.c.body).where(t.manifests.c.role == "index", t.manifests.c.digest.in_(list(digests)))
        )
    )


async def insert_closure(
    conn: AsyncConnection, repository_id: int, root: str, *, blobs: Iterable[str], children: Iterable[str]
) -> None:
    """Store the transitive closure of `root`: itself, its blobs, and everything its children reach."""
    own = [{"repository_id": repository_id, "digest": root, "root": root, "is_manifest": True}]
    own += [
        {"repository_id": repository_id, "digest": digest, "root": root, "is_manifest": False}
        for digest in sorted(set(blobs))
    ]
    await conn.execute(upsert(t.closure).on_conflict_do_nothing(), own)
    reached = sorted(set(children))
    if reached:
        await conn.execute(
            text(
                "insert into closure (repository_id, digest, root, is_manifest) "
                "select repository_id, digest, :root, bool_or(is_manifest) from closure "
                "where repository_id = :repository and root = any(:children) "
                "group by repository_id, digest on conflict do nothing"
            ),
            {"root": root, "repository": repository_id, "children": reached},
        )


async def manifest_in(conn: AsyncConnection, repository_id: int, digest: str) -> ManifestRow | None:
    rows = await manifests_in(conn, repository_id, [digest])
    return rows[0] if rows else None


async def manifests_in(conn: AsyncConnection, repository_id: int, digests: Sequence[str]) -> list[ManifestRow]:
    m, rm = t.manifests, t.repository_manifests
    rows = await conn.execute(
        select(
            m.c.digest, m.c.media_type, m.c.role, m.c.size, m.c.body, m.c.artifact_type, m.c.subject, m.c.annotations,
            rm.c.evidence_for,
        )
        .join(rm, rm.c.digest == m.c.digest)
        .where(rm.c.repository_id == repository_id, m.c.digest.in_(digests))
    )  # fmt: skip
    return [ManifestRow(**row) for row in rows.mappings()]


async def count_evidence(conn: AsyncConnection, repository_id: int, subject: str) -> int:
    """How many pieces of evidence people have pushed about a manifest; our own reports do not count."""
    rm = t.repository_manifests
    count = await conn.scalar(
        select(func.count()).where(
            rm.c.repository_id == repository_id, rm.c.evidence_for == subject, rm.c.pushed_by != "berth"
        )
    )
    return int(count or 0)


async def revoke_approval(conn: AsyncConnection, repository_id: int, digest: str, *, by: str) -> None:
    """What was approved and then deleted has to be approved again when it comes back."""
    await conn.execute(
        insert(t.approvals).values(
            repository_id=repository_id, digest=digest, decision="revoked", principal=by, note="the version was deleted"
        )
    )


async def delete_manifest(conn: AsyncConnection, repository_id: int, digest: str) -> bool:
    """Remove a manifest from a repository with its tags, closure and verdict; its bytes stay for clean-up."""
    here = {"repository": repository_id, "digest": digest}
    for statement in (
        "delete from tags where repository_id = :repository and digest = :digest",
        "delete from closure where repository_id = :repository and root = :digest",
        "delete from verdicts where repository_id = :repository and root = :digest",
    ):
        await conn.execute(text(statement), here)
    result = await conn.execute(
        text("delete from repository_manifests where repository_id = :repository and digest = :digest"), here
    )
    return bool(result.rowcount)


async def indexes_holding(conn: AsyncConnection, repository_id: int, digest: str) -> list[str]:
    """Other manifests of the repository whose closure holds this one."""
    rows = await conn.scalars(
        select(t.closure.c.root)
        .where(t.closure.c.repository_id == repository_id, t.closure.c.digest == digest, t.closure.c.root != digest)
        .limit(10)
    )
    return list(rows)


async def repositories_holding(conn: AsyncConnection, digest: str) -> list[int]:
    rows = await conn.scalars(
        select(t.repository_manifests.c.repository_id)
        .where(t.repository_manifests.c.digest == digest)
        .order_by(t.repository_manifests.c.repository_id)
    )
    return list(rows)


async def leaves_of(conn: AsyncConnection, repository_id: int, root: str) -> list[tuple[str, str]]:
    """(digest, role) of every manifest under `root` that is not an index."""
    rows = await conn.execute(
        select(t.manifests.c.digest, t.manifests.c.role)
        .join(t.closure, t.closure.c.digest == t.manifests.c.digest)
        .where(
            t.closure.c.repository_id == repository_id,
            t.closure.c.root == root,
            t.closure.c.is_manifest,
            t.manifests.c.role != "index",
        )
        .order_by(t.manifests.c.digest)
    )
    return [(row.digest, row.role) for row in rows]


# -- tags --------------------------------------------------------------------------------------------------------


async def put_tag(conn: AsyncConnection, repository_id: int, name: str, digest: str) -> None:
    await conn.execute(
        upsert(t.tags)
        .values(repository_id=repository_id, name=name, digest=digest)
        .on_conflict_do_update(
            index_elements=["repository_id", "name"], set_={"digest": digest, "updated_at": func.now()}
        )
    )


async def tag_digest(conn: AsyncConnection, repository_id: int, name: str) -> str | None:
    return await conn.scalar(
        select(t.tags.c.digest).where(t.tags.c.repository_id == repository_id, t.tags.c.name == name)
    )


async def delete_tag(conn: AsyncConnection, repository_id: int, name: str) -> bool:
    result = await conn.execute(delete(t.tags).where(t.tags.c.repository_id == repository_id, t.tags.c.name == name))
    return bool(result.rowcount)


# -- versions ----------------------------------------------------------------------------------------------------

_VERSION_COLUMNS = (
    *(c for c in t.versions.c if c.name not in ("sort_key", "needs_recorded")),
    t.repositories.c.name.label("repository"),
    t.repositories.c.kind,
)
_VERSION = select(*_VERSION_COLUMNS).join(t.repositories, t.repositories.c.id == t.versions.c.repository_id)


async def version_by_number(conn: AsyncConnection, repository_id: int, version: str) -> VersionRow | None:
    row = (
        (
            await conn.execute(
                _VERSION.where(t.versions.c.repository_id == repository_id, t.versions.c.version == version)
            )
        )
        .mappings()
        .one_or_none()
    )
    return None if row is None else VersionRow(**row)


async def version_by_id(conn: AsyncConnection, version_id: int) -> VersionRow | None:
    row = (await conn.execute(_VERSION.where(t.versions.c.id == version_id))).mappings().one_or_none()
    return None if row is None else VersionRow(**row)


async def versions_with_digest(conn: AsyncConnection, repository_id: int, digest: str) -> list[VersionRow]:
    rows = await conn.execute(
        _VERSION.where(t.versions.c.repository_id == repository_id, t.versions.c.digest == digest).order_by(
            t.versions.c.number
        )
    )
    return [VersionRow(**row) for row in rows.mappings()]


async def versions_below(
    conn: AsyncConnection, repository_id: int, *, before: tuple[str, int] | None, limit: int
) -> list[tuple[tuple[str, int], VersionRow]]:
    """(place, version) of existing releases in falling precedence, below the place `before`.

    A place is (sort key, number): builds of one version (`1.2.0`, `1.2.0+cpu`) have equal precedence.
    """
    statement = (
        select(t.versions.c.sort_key, *_VERSION_COLUMNS)
        .join(t.repositories, t.repositories.c.id == t.versions.c.repository_id)
        .where(
            t.versions.c.repository_id == repository_id,
            t.versions.c.state != "deleted",
            t.versions.c.prerelease.is_(False),
            t.versions.c.deprecated.is_(False),
        )
        .order_by(t.versions.c.sort_key.desc(), t.versions.c.number.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(tuple_(t.versions.c.sort_key, t.versions.c.number) < before)
    rows = await conn.execute(statement)
    return [
        ((row["sort_key"], row["number"]), VersionRow(**{k: v for k, v in row.items() if k != "sort_key"}))
        for row in rows.mappings()
    ]


async def insert_version(conn: AsyncConnection, values: dict[str, Any]) -> int:
    """Insert under the repository's lock; returns the id. `number` is assigned here."""
    number = await conn.scalar(
        select(func.coalesce(func.max(t.versions.c.number), 0) + 1).where(
            t.versions.c.repository_id == values["repository_id"]
        )
    )
    version_id = await conn.scalar(insert(t.versions).values(**values, number=number).returning(t.versions.c.id))
    return int(version_id or 0)


async def set_version(conn: AsyncConnection, version_id: int, **values: Any) -> None:
    await conn.execute(update(t.versions).where(t.versions.c.id == version_id).values(**values, updated_at=func.now()))


# -- aliases -----------------------------------------------------------------------------------------------------


async def alias_names(conn: AsyncConnection, repository_id: int) -> frozenset[str]:
    return frozenset(await conn.scalars(select(t.aliases.c.name).where(t.aliases.c.repository_id == repository_id)))


async def alias_target(conn: AsyncConnection, repository_id: int, name: str) -> VersionRow | None:
    row = (
        (
            await conn.execute(
                _VERSION.join(t.aliases, t.aliases.c.version_id == t.versions.c.id).where(
                    t.aliases.c.repository_id == repository_id, t.aliases.c.name == name
                )
            )
        )
        .mappings()
        .one_or_none()
    )
    return None if row is None else VersionRow(**row)


async def aliases_of_version(conn: AsyncConnection, version_id: int) -> list[str]:
    return list(
        await conn.scalars(
            select(t.aliases.c.name).where(t.aliases.c.version_id == version_id).order_by(t.aliases.c.name)
        )
    )


async def move_alias(
    conn: AsyncConnection, *, repository_id: int, name: str, version_id: int | None, by: str, reason: str
) -> None:
    """Point the alias at a version (None removes it) and keep the move."""
    if version_id is None:
        await conn.execute(
            delete(t.aliases).where(t.aliases.c.repository_id == repository_id, t.aliases.c.name == name)
        )
    else:
        await conn.execute(
            upsert(t.aliases)
            .values(repository_id=repository_id, name=name, version_id=version_id, moved_by=by)
            .on_conflict_do_update(
                index_elements=["repository_id", "name"],
                set_={"version_id": version_id, "moved_by": by, "moved_at": func.now()},
            )
        )
    await conn.execute(
        insert(t.alias_moves).values(
            repository_id=repository_id, name=name, version_id=version_id, moved_by=by, reason=reason
        )
    )


async def last_moves(conn: AsyncConnection, repository_id: int, name: str, limit: int) -> list[int | None]:
    """Version ids of the latest moves, newest first (None = removed)."""
    return list(
        await conn.scalars(
            select(t.alias_moves.c.version_id)
            .where(t.alias_moves.c.repository_id == repository_id, t.alias_moves.c.name == name)
            .order_by(t.alias_moves.c.id.desc())
            .limit(limit)
        )
    )


async def alias_version_at(conn: AsyncConnection, repository_id: int, name: str, at: datetime) -> int | None:
    return await conn.scalar(
        select(t.alias_moves.c.version_id)
        .where(
            t.alias_moves.c.repository_id == repository_id,
            t.alias_moves.c.name == name,
            t.alias_moves.c.moved_at <= at,
        )
        .order_by(t.alias_moves.c.id.desc())
        .limit(1)
    )


async def mark_stale(conn: AsyncConnection, repository_id: int, root: str) -> None:
    """Make the next reader decide again about `root`."""
    await conn.execute(
        text("update verdicts set valid_until = '-infinity' where repository_id = :repository and root = :root"),
        {"repository": repository_id, "root": root},
    )


# -- a blob's place and lease -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlobState:
    """A blob row: 'live' or 'deleting', and where its bytes are; None = not in the depot."""

    state: str
    location: str | None
    size: int


async def blob_state(conn: AsyncConnection, digest: str) -> BlobState | None:
    """A blob row after taking the digest's lock, which clean-up also holds while it removes bytes."""
    await conn.execute(text("select pg_advisory_xact_lock(hashtextextended(:digest, 0))"), {"digest": digest})
    row = (
        await conn.execute(
            text("select state, location, size from blobs where digest = :digest for update"), {"digest": digest}
        )
    ).one_or_none()
    return None if row is None else BlobState(**row._mapping)


async def revive_blob(conn: AsyncConnection, *, digest: str, size: int, location: str, lease_until: datetime) -> None:
    """A blob whose removal was interrupted, or whose bytes were elsewhere, is uploaded again: it lives there now."""
    await conn.execute(
        text(
            "update blobs set state = 'live', size = :size, location = :location, read_at = now(), "
            "lease_until = greatest(lease_until, :lease) where digest = :digest"
        ),
        {"digest": digest, "size": size, "location": location, "lease": lease_until},
    )


async def renew_lease(conn: AsyncConnection, digest: str, lease_until: datetime, *, unless_after: datetime) -> None:
    """Keep a blob from clean-up; written only when the present lease runs out soon, so HEADs stay cheap."""
    await conn.execute(
        text("update blobs set lease_until = :lease where digest = :digest and lease_until < :unless_after"),
        {"digest": digest, "lease": lease_until, "unless_after": unless_after},
    )


async def tag_names(conn: AsyncConnection, repository_id: int, *, after: str, limit: int) -> list[str]:
    """Stored tags in ASCII order."""
    rows = await conn.scalars(
        text("select name from tags where repository_id = :repository and name > :after order by name limit :limit"),
        {"repository": repository_id, "after": after, "limit": limit},
    )
    return list(rows)
