"""How are verdicts and what they rest on read and written? SQL in, rows out; no rule is decided here.

Two kinds of lock make "the newest facts win" true. A verdict's row is locked before its facts are loaded, and whoever
changes facts also locks (marks) every row they concern. A closure that is being written cannot be seen by the one who
changes facts, so a decider first takes a shared lock on the digests of its closure, and a change about a digest takes
that lock exclusively.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    and_,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy import insert as sql_insert
from sqlalchemy import text as sql_text
from sqlalchemy import update as sql_update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection as AsyncConnection

from berth.db.tables import (
    approvals,
    blobs,
    closure,
    evidence,
    manifests,
    projects,
    repositories,
    repository_manifests,
    signatures,
    tags,
    trusted_keys,
    verdicts,
    versions,
)
from berth.errors import SetupError

_STALE: Final[ColumnElement[datetime]] = literal_column("'-infinity'::timestamptz")
# Locks on digests are spread over this many slots, so that a huge index cannot fill PostgreSQL's lock table.
_LOCK_CLASS: Final = 0x67617465
_LOCK_SLOTS: Final = 256


@dataclass(frozen=True, slots=True)
class Scope:
    """The repository a verdict is about, and its project's rules."""

    repository_id: int
    repository: str
    project_id: int
    policy: Mapping[str, Any]
    policy_hash: str
    trust_hash: str


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A stored verdict. `valid_until` None: marked stale. `fresh`: may be served as it is."""

    repository_id: int
    root: str
    admitted: bool
    valid_until: datetime | None
    reasons: Sequence[Mapping[str, Any]]
    policy_hash: str
    trust_hash: str
    evidence_hash: str
    decided_at: datetime
    fresh: bool


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """A manifest of a closure; role, media type and body are None when its bytes are not here."""

    digest: str
    role: str | None
    media_type: str | None
    body: bytes | None


@dataclass(frozen=True, slots=True)
class SignatureRow:
    """One stored signature with the outcome of its last check."""

    kind: str
    manifest: str
    payload: str
    signature: str
    predicate_type: str | None
    key_id: str | None
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A signing key that a project trusts now."""

    id: int
    name: str
    public_key: str
    key_id: str
    predicates: tuple[str, ...]
    added_by: str
    added_at: datetime


async def require_transaction(conn: AsyncConnection) -> None:
    """Raise SetupError on an autocommit connection: its locks would end before they protect anything."""
    raw = await conn.get_raw_connection()
    if getattr(raw.driver_connection, "autocommit", False):
        raise SetupError("Deciding needs a transaction; this connection commits every statement by itself.")


async def lock_digest(conn: AsyncConnection, digest: str) -> None:
    """Wait until nobody decides about content that holds this digest; others wait until this transaction ends."""
    await conn.execute(select(func.pg_advisory_xact_lock(_LOCK_CLASS, _slot(digest))))


async def hold_repository(conn: AsyncConnection, repository_id: int) -> None:
    """Wait for a push under a tag that is going on in this repository: it holds its row before it locks digests."""
    query = select(repositories.c.id).where(repositories.c.id == repository_id)
    await conn.execute(query.with_for_update(read=True, key_share=True))


async def share_closure(conn: AsyncConnection, repository_id: int, root: str) -> None:
    """Wait until nobody is changing facts about what this root holds; changes wait until this transaction ends."""
    held = (await conn.execute(select(closure.c.digest).where(_manifests_of(repository_id, root)))).scalars()
    slots = sorted({_slot(digest) for digest in held})
    taken = func.unnest(cast(slots, ARRAY(Integer))).column_valued("slot")
    await conn.execute(select(func.pg_advisory_xact_lock_shared(_LOCK_CLASS, taken)))


async def lock_verdict(conn: AsyncConnection, repository_id: int, root: str) -> Sequence[Mapping[str, Any]]:
    """Lock the row of a verdict (made here, stale and denying, if absent); returns the reasons it holds."""
    row = pg_insert(verdicts).values(repository_id=repository_id, root=root, **_UNDECIDED).on_conflict_do_nothing()
    await conn.execute(row)
    locked = (
        select(verdicts.c.reasons)
        .where(verdicts.c.repository_id == repository_id, verdicts.c.root == root)
        .with_for_update()
    )
    reasons: Sequence[Mapping[str, Any]] = (await conn.execute(locked)).scalar_one()
    return reasons


async def outcome_before(conn: AsyncConnection, repository_id: int, root: str) -> tuple[bool, str]:
    """(admitted, evidence hash) as stored, for whoever holds the row locked."""
    query = select(verdicts.c.admitted, verdicts.c.evidence_hash).where(
        verdicts.c.repository_id == repository_id, verdicts.c.root == root
    )
    row = (await conn.execute(query)).one()
    return row.admitted, row.evidence_hash


async def lives_elsewhere(conn: AsyncConnection, repository_id: int, root: str) -> bool:
    """Whether a root is, or is to be, published to other registries than the depot."""
    found = await conn.scalar(
        sql_text(
            """
            select p.home <> 'depot'
                or exists (select 1 from sync_rules u
                            where u.on_admission and u.enabled and u.source = 'depot' and u.project = p.name)
                or exists (select 1 from placements l join versions v on v.id = l.version_id
                            where v.repository_id = r.id and v.digest = :root)
              from repositories r join projects p on p.id = r.project_id
             where r.id = :repository
            """
        ),
        {"repository": repository_id, "root": root},
    )
    return bool(found)


async def reasons_of(conn: AsyncConnection, repository_id: int, root: str) -> Sequence[Mapping[str, Any]]:
    """The reasons of a stored verdict, without locking; empty when there is none."""
    query = select(verdicts.c.reasons).where(verdicts.c.repository_id == repository_id, verdicts.c.root == root)
    return (await conn.execute(query)).scalar_one_or_none() or []


async def holds(conn: AsyncConnection, repository_id: int, root: str) -> bool:
    """True when the closure of this root is known in the repository."""
    query = select(closure.c.root).where(_manifests_of(repository_id, root)).limit(1)
    return (await conn.execute(query)).scalar_one_or_none() is not None


async def write_verdict(conn: AsyncConnection, row: VerdictRow) -> None:
    """Store what was decided in the row that `lock_verdict` locked."""
    await conn.execute(
        sql_update(verdicts)
        .where(verdicts.c.repository_id == row.repository_id, verdicts.c.root == row.root)
        .values(
            admitted=row.admitted,
            valid_until=row.valid_until,
            reasons=list(row.reasons),
            policy_hash=row.policy_hash,
            trust_hash=row.trust_hash,
            evidence_hash=row.evidence_hash,
            decided_at=row.decided_at,
        )
    )


async def stored_verdict(conn: AsyncConnection, repository_id: int, root: str, *, now: datetime) -> VerdictRow | None:
    """The stored verdict, without locking anything."""
    fresh = and_(
        verdicts.c.valid_until > now,
        verdicts.c.policy_hash == projects.c.policy_hash,
        verdicts.c.trust_hash == projects.c.trust_hash,
    )
    query = (
        select(
            verdicts.c.admitted,
            func.nullif(verdicts.c.valid_until, _STALE).label("valid_until"),
            verdicts.c.reasons,
            verdicts.c.policy_hash,
            verdicts.c.trust_hash,
            verdicts.c.evidence_hash,
            verdicts.c.decided_at,
            fresh.label("fresh"),
        )
        .join(repositories, repositories.c.id == verdicts.c.repository_id)
        .join(projects, projects.c.id == repositories.c.project_id)
        .where(verdicts.c.repository_id == repository_id, verdicts.c.root == root)
    )
    row = (await conn.execute(query)).mappings().one_or_none()
    return None if row is None else VerdictRow(repository_id=repository_id, root=root, **row)


async def scope_of(conn: AsyncConnection, repository_id: int) -> Scope | None:
    """A repository's name and its project's rules."""
    query = (
        select(
            repositories.c.id.label("repository_id"),
            repositories.c.name.label("repository"),
            repositories.c.project_id,
            projects.c.policy,
            projects.c.policy_hash,
            projects.c.trust_hash,
        )
        .join(projects, projects.c.id == repositories.c.project_id)
        .where(repositories.c.id == repository_id)
    )
    row = (await conn.execute(query)).mappings().one_or_none()
    return None if row is None else Scope(**row)


async def tree_of(conn: AsyncConnection, repository_id: int, root: str) -> list[ManifestRow]:
    """Every manifest in a root's closure; empty when the repository does not hold the root."""
    query = (
        select(closure.c.digest, manifests.c.role, manifests.c.media_type, manifests.c.body)
        .outerjoin(manifests, manifests.c.digest == closure.c.digest)
        .where(_manifests_of(repository_id, root))
        .order_by(closure.c.digest)
    )
    return [ManifestRow(**row) for row in (await conn.execute(query)).mappings()]


async def reports_of(conn: AsyncConnection, repository_id: int, root: str, *, history: int) -> list[Mapping[str, Any]]:
    """The last `history` reports per leaf and kind of a closure, oldest first, without the lists made for people."""
    back = func.row_number().over(partition_by=(evidence.c.digest, evidence.c.kind), order_by=evidence.c.id.desc())
    latest = (
        select(
            evidence.c.id,
            evidence.c.digest,
            evidence.c.kind,
            evidence.c.status,
            evidence.c.finished_at,
            evidence.c.summary.op("-")(literal("top")).op("-")(literal("suspicious")).label("summary"),
            evidence.c.database,
            back.label("back"),
        )
        .where(evidence.c.digest.in_(select(closure.c.digest).where(_manifests_of(repository_id, root))))
        .subquery()
    )
    query = select(latest).where(latest.c.back <= history).order_by(latest.c.id)
    return [dict(row) for row in (await conn.execute(query)).mappings()]


async def reports_kept(conn: AsyncConnection, digests: Sequence[str]) -> list[Mapping[str, Any]]:
    """The latest full report of each leaf and kind, with the place of its bytes."""
    newest = (
        select(func.max(evidence.c.id))
        .where(evidence.c.digest.in_(digests), evidence.c.report.is_not(None))
        .group_by(evidence.c.digest, evidence.c.kind)
    )
    query = (
        select(evidence, blobs.c.location, blobs.c.size.label("report_size"))
        .join(blobs, blobs.c.digest == evidence.c.report)
        .where(evidence.c.id.in_(newest), blobs.c.location.is_not(None))
    )
    return [dict(row) for row in (await conn.execute(query)).mappings()]


async def signatures_on(conn: AsyncConnection, repository_id: int, subject: str) -> list[SignatureRow]:
    """Every signature ever found on a manifest of this repository."""
    query = (
        select(*(signatures.c[name] for name in SignatureRow.__dataclass_fields__))
        .where(signatures.c.repository_id == repository_id, signatures.c.subject == subject)
        .order_by(signatures.c.id)
    )
    return [SignatureRow(**row) for row in (await conn.execute(query)).mappings()]


async def keys_of(conn: AsyncConnection, project_id: int) -> list[KeyRow]:
    """The keys that a project trusts now."""
    query = (
        select(*(trusted_keys.c[name] for name in KeyRow.__dataclass_fields__))
        .where(trusted_keys.c.project_id == project_id, trusted_keys.c.revoked_at.is_(None))
        .order_by(trusted_keys.c.id)
    )
    return [KeyRow(**{**row, "predicates": tuple(row["predicates"])}) for row in (await conn.execute(query)).mappings()]


async def decisions_in(conn: AsyncConnection, repository_id: int, root: str) -> dict[str, Mapping[str, Any]]:
    """Latest approval row per manifest of a closure: digest → decision, principal, decided_at."""
    latest = (
        select(func.max(approvals.c.id))
        .where(
            approvals.c.repository_id == repository_id,
            approvals.c.digest.in_(select(closure.c.digest).where(_manifests_of(repository_id, root))),
        )
        .group_by(approvals.c.digest)
    )
    query = select(approvals.c.digest, approvals.c.decision, approvals.c.principal, approvals.c.decided_at).where(
        approvals.c.id.in_(latest)
    )
    return {row["digest"]: dict(row) for row in (await conn.execute(query)).mappings()}


async def versions_with(conn: AsyncConnection, repository_id: int, root: str) -> list[tuple[str, str, str]]:
    """(version, state, pushed_by) of every version that has this digest."""
    query = select(versions.c.version, versions.c.state, versions.c.pushed_by).where(
        versions.c.repository_id == repository_id, versions.c.digest == root
    )
    return [(row.version, row.state, row.pushed_by) for row in await conn.execute(query.order_by(versions.c.id))]


async def pusher_of(conn: AsyncConnection, repository_id: int, root: str) -> str | None:
    """Who pushed this manifest to this repository; None when the repository does not hold it."""
    query = select(repository_manifests.c.pushed_by).where(
        repository_manifests.c.repository_id == repository_id, repository_manifests.c.digest == root
    )
    name: str | None = (await conn.execute(query)).scalar_one_or_none()
    return name


async def tags_of(conn: AsyncConnection, repository_id: int, root: str) -> list[str]:
    """The stored tags that name this manifest."""
    query = select(tags.c.name).where(tags.c.repository_id == repository_id, tags.c.digest == root)
    return list((await conn.execute(query)).scalars())


async def mark_digest(conn: AsyncConnection, digest: str, *, repository_id: int | None = None) -> None:
    """Mark the verdict of every root whose closure holds this digest, locking its row until the transaction ends.

    Rows that are absent are made: inserting waits for a decider that is making the same row right now.
    """
    await _mark(conn, _roots_with(digest, repository_id))


async def mark_root(conn: AsyncConnection, repository_id: int, root: str) -> None:
    """Mark one verdict, if the repository holds that root."""
    await _mark(conn, _roots_with(root, repository_id).where(closure.c.root == root))


async def mark_repositories(
    conn: AsyncConnection,
    *,
    project_id: int | None = None,
    repository_id: int | None = None,
    besides: Collection[tuple[int, str]] = (),
) -> None:
    """Mark the verdicts of a project or a repository as stale.

    Those that carry other hashes than their project are decided again on read as it is and need no mark, except
    `besides`: the ones the caller is going to decide, locked here so that rows are always locked in one order.
    """
    judged_now = and_(
        verdicts.c.policy_hash == projects.c.policy_hash,
        verdicts.c.trust_hash == projects.c.trust_hash,
    )
    owner = projects.c.id == project_id if project_id is not None else repositories.c.id == repository_id
    locked = (
        select(verdicts.c.repository_id, verdicts.c.root)
        .join(repositories, repositories.c.id == verdicts.c.repository_id)
        .join(projects, projects.c.id == repositories.c.project_id)
        .where(owner, or_(judged_now, tuple_(verdicts.c.repository_id, verdicts.c.root).in_(list(besides))))
        .order_by(verdicts.c.repository_id, verdicts.c.root)
        .with_for_update(of=verdicts)
        .cte("locked")
    )
    await conn.execute(
        sql_update(verdicts)
        .where(verdicts.c.repository_id == locked.c.repository_id, verdicts.c.root == locked.c.root)
        .values(valid_until=_STALE)
    )


async def newest_roots_with(
    conn: AsyncConnection, digest: str, *, repository_id: int | None = None, limit: int
) -> list[tuple[int, str]]:
    """(repository, root) whose closure holds this digest, the newest versions first."""
    held = _roots_with(digest, repository_id).subquery()
    same = and_(versions.c.repository_id == held.c.repository_id, versions.c.digest == held.c.root)
    query = (
        select(held.c.repository_id, held.c.root)
        .outerjoin(versions, same)
        .group_by(held.c.repository_id, held.c.root)
        .order_by(func.max(versions.c.id).desc().nulls_last(), held.c.repository_id, held.c.root)
        .limit(limit)
    )
    return [(row.repository_id, row.root) for row in await conn.execute(query)]


async def newest_roots_in(
    conn: AsyncConnection, *, project_id: int | None = None, repository_id: int | None = None, limit: int
) -> list[tuple[int, str]]:
    """(repository, digest) of the newest versions of a project or a repository."""
    query = select(versions.c.repository_id, versions.c.digest)
    if project_id is not None:
        query = query.join(repositories, repositories.c.id == versions.c.repository_id).where(
            repositories.c.project_id == project_id
        )
    else:
        query = query.where(versions.c.repository_id == repository_id)
    rows = await conn.execute(query.order_by(versions.c.id.desc()).limit(limit))
    return list(dict.fromkeys((row.repository_id, row.digest) for row in rows))


async def insert_evidence(conn: AsyncConnection, values: Mapping[str, Any]) -> int:
    """Append one report; returns its id."""
    return int((await conn.execute(sql_insert(evidence).values(**values).returning(evidence.c.id))).scalar_one())


async def insert_decision(conn: AsyncConnection, values: Mapping[str, Any], *, version_approval: str) -> None:
    """Append one decision of a person and show it on every version with that digest."""
    await conn.execute(sql_insert(approvals).values(**values))
    await conn.execute(
        sql_update(versions)
        .where(versions.c.repository_id == values["repository_id"], versions.c.digest == values["digest"])
        .values(approval=version_approval, updated_at=values["decided_at"])
    )


async def upsert_signature(
    conn: AsyncConnection, *, repository_id: int, subject: str, row: SignatureRow, pushed_by: str, now: datetime
) -> None:
    """Add one signature, or update the outcome of its check; who pushed it first stays."""
    outcome = {
        "kind": row.kind,
        "predicate_type": row.predicate_type,
        "key_id": row.key_id,
        "verdict": row.verdict,
        "reason": row.reason,
        "checked_at": now,
    }
    added = pg_insert(signatures).values(
        repository_id=repository_id,
        subject=subject,
        manifest=row.manifest,
        payload=row.payload,
        signature=row.signature,
        pushed_by=pushed_by,
        **outcome,
    )
    await conn.execute(added.on_conflict_do_update(constraint="uq_signatures_identity", set_=outcome))


async def void_signatures(conn: AsyncConnection, project_id: int, *, now: datetime) -> None:
    """Make every valid signature by a key that the project does not trust any more untrusted."""
    trusted = select(trusted_keys.c.key_id).where(
        trusted_keys.c.project_id == project_id, trusted_keys.c.revoked_at.is_(None)
    )
    await conn.execute(
        sql_update(signatures)
        .where(
            signatures.c.repository_id.in_(select(repositories.c.id).where(repositories.c.project_id == project_id)),
            signatures.c.verdict == "valid",
            or_(signatures.c.key_id.is_(None), signatures.c.key_id.not_in(trusted)),
        )
        .values(verdict="untrusted", reason="unknown_key", checked_at=now)
    )


async def signature_manifests(
    conn: AsyncConnection, project_id: int, *, after: tuple[int, str, str], limit: int
) -> list[Mapping[str, Any]]:
    """A page of the stored signature manifests of a project: repository_id, repository, subject, manifest, body."""
    place = tuple_(signatures.c.repository_id, signatures.c.subject, signatures.c.manifest)
    query = (
        select(
            signatures.c.repository_id,
            repositories.c.name.label("repository"),
            signatures.c.subject,
            signatures.c.manifest,
            manifests.c.media_type,
            manifests.c.body,
        )
        .distinct()
        .join(repositories, repositories.c.id == signatures.c.repository_id)
        .outerjoin(manifests, manifests.c.digest == signatures.c.manifest)
        .where(repositories.c.project_id == project_id, place > tuple_(*after))
        .order_by(signatures.c.repository_id, signatures.c.subject, signatures.c.manifest)
        .limit(limit)
    )
    return [dict(row) for row in (await conn.execute(query)).mappings()]


async def set_outcomes(
    conn: AsyncConnection,
    *,
    repository_id: int,
    subject: str,
    manifest: str,
    rows: Sequence[SignatureRow],
    now: datetime,
) -> None:
    """Store how checking one manifest's signatures again went; those that were not found again become invalid."""
    stored = sql_update(signatures).where(
        signatures.c.repository_id == repository_id,
        signatures.c.subject == subject,
        signatures.c.manifest == manifest,
    )
    await conn.execute(stored.values(verdict="invalid", reason="blob_missing", checked_at=now))
    for row in rows:
        await conn.execute(
            stored.where(signatures.c.payload == row.payload, signatures.c.signature == row.signature).values(
                kind=row.kind,
                predicate_type=row.predicate_type,
                key_id=row.key_id,
                verdict=row.verdict,
                reason=row.reason,
            )
        )


async def write_policy(conn: AsyncConnection, project_id: int, *, policy: Mapping[str, Any], policy_hash: str) -> bool:
    """Store a project's policy; False when there is no such project."""
    changed = sql_update(projects).where(projects.c.id == project_id)
    return (await conn.execute(changed.values(policy=dict(policy), policy_hash=policy_hash))).rowcount == 1


async def lock_project(conn: AsyncConnection, project_id: int) -> bool:
    """Keep other changes of this project's keys waiting; False when there is no such project."""
    query = select(projects.c.id).where(projects.c.id == project_id).with_for_update(key_share=True)
    return (await conn.execute(query)).scalar_one_or_none() is not None


async def write_trust_hash(conn: AsyncConnection, project_id: int, trust_hash: str) -> None:
    """Store the hash of a project's trusted keys."""
    await conn.execute(sql_update(projects).where(projects.c.id == project_id).values(trust_hash=trust_hash))


async def insert_key(conn: AsyncConnection, values: Mapping[str, Any]) -> None:
    """Add a trusted key."""
    await conn.execute(sql_insert(trusted_keys).values(**values))


async def revoke_key(conn: AsyncConnection, project_id: int, name: str, *, now: datetime) -> bool:
    """End the trust in a key; False when no trusted key has that name."""
    ended = sql_update(trusted_keys).where(
        trusted_keys.c.project_id == project_id, trusted_keys.c.name == name, trusted_keys.c.revoked_at.is_(None)
    )
    return (await conn.execute(ended.values(revoked_at=now))).rowcount > 0


async def scan_states(
    conn: AsyncConnection, digests: Collection[str], *, now: datetime
) -> tuple[dict[tuple[str, str], str], set[tuple[str, str]]]:
    """Status of the latest report per (digest, kind), and the (digest, kind) a scan is waiting or running for."""
    newest = (
        select(func.max(evidence.c.id))
        .where(evidence.c.digest.in_(digests))
        .group_by(evidence.c.digest, evidence.c.kind)
    )
    latest = select(evidence.c.digest, evidence.c.kind, evidence.c.status).where(evidence.c.id.in_(newest))
    known = {(row.digest, row.kind): row.status for row in await conn.execute(latest)}
    # procrastinate's own table; a job put off to a later time is a plan, not something to wait for.
    waiting = sql_text(
        "SELECT args->>'digest' AS digest, task_name FROM procrastinate_jobs"
        " WHERE queue_name = 'scan' AND args->>'digest' = ANY(:digests)"
        " AND (status = 'doing' OR (status = 'todo' AND (scheduled_at IS NULL OR scheduled_at <= :now)))"
    )
    kinds = {"scan_vulnerabilities": "vulnerabilities", "scan_weights": "weights"}
    jobs = await conn.execute(waiting, {"digests": list(digests), "now": now})
    return known, {(row.digest, kinds[row.task_name]) for row in jobs if row.task_name in kinds}


_UNDECIDED: Final[Mapping[str, Any]] = {
    "admitted": False,
    "valid_until": _STALE,
    "reasons": [],
    "policy_hash": "",
    "trust_hash": "",
    "evidence_hash": "",
}


def _slot(digest: str) -> int:
    return zlib.crc32(digest.encode()) % _LOCK_SLOTS


def _manifests_of(repository_id: int, root: str) -> ColumnElement[bool]:
    return and_(closure.c.repository_id == repository_id, closure.c.root == root, closure.c.is_manifest)


def _roots_with(digest: str, repository_id: int | None) -> Select[tuple[int, str]]:
    query = select(closure.c.repository_id, closure.c.root).where(closure.c.digest == digest)
    return query if repository_id is None else query.where(closure.c.repository_id == repository_id)


async def _mark(conn: AsyncConnection, roots: Select[tuple[int, str]]) -> None:
    # In one order everywhere, so that two transactions never wait for each other.
    ordered = roots.add_columns(
        literal(False).label("admitted"),
        _STALE.label("valid_until"),
        literal_column("'[]'::jsonb").label("reasons"),
        literal("").label("policy_hash"),
        literal("").label("trust_hash"),
        literal("").label("evidence_hash"),
    ).order_by(closure.c.repository_id, closure.c.root)
    names = [
        "repository_id",
        "root",
        "admitted",
        "valid_until",
        "reasons",
        "policy_hash",
        "trust_hash",
        "evidence_hash",
    ]
    await conn.execute(
        pg_insert(verdicts)
        .from_select(names, ordered)
        .on_conflict_do_update(index_elements=["repository_id", "root"], set_={"valid_until": _STALE})
    )
