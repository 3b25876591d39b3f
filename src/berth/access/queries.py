"""How are principals, tokens, projects and members read and written? SQL in, facts out; no rule is decided here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    DateTime,
    Integer,
    LargeBinary,
    Select,
    Text,
    and_,
    bindparam,
    exists,
    false,
    func,
    or_,
    select,
    true,
)
from sqlalchemy import delete as sql_delete
from sqlalchemy import insert as sql_insert
from sqlalchemy import update as sql_update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection as AsyncConnection

from berth.access.bearer import BearerClaims
from berth.access.decide import Actor
from berth.access.tokens import hash_token
from berth.db.tables import (
    audit,
    installation,
    memberships,
    principals,
    projects,
    repositories,
    repository_manifests,
    tokens,
    uploads,
    versions,
)


@dataclass(frozen=True, slots=True)
class ProjectRow:
    id: int
    name: str
    description: str
    policy: Mapping[str, Any]
    policy_hash: str
    trust_hash: str
    home: str
    publishing: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PrincipalRow:
    id: int
    name: str
    kind: str
    global_role: str | None
    epoch: int
    disabled: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TokenRow:
    id: int
    user: str
    principal_id: int
    name: str
    project: str | None
    role: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class MemberRow:
    user: str
    principal_id: int
    kind: str
    role: str
    disabled: bool


@dataclass(frozen=True, slots=True)
class AuditRow:
    id: int
    at: datetime
    principal: str | None
    action: str
    project: str | None
    object: str
    outcome: str
    detail: Mapping[str, Any]


_EVERY_PROJECT_ROLE: Final = (
    select(func.coalesce(func.jsonb_object_agg(projects.c.name, memberships.c.role), func.jsonb_build_object()))
    .select_from(memberships.join(projects, memberships.c.project_id == projects.c.id))
    .where(memberships.c.principal_id == principals.c.id)
    .scalar_subquery()
    .label("roles")
)
_TOKEN_PROJECT: Final = projects.alias("token_project")


def _actor_columns() -> Select[Any]:
    return select(
        principals.c.id,
        principals.c.name,
        principals.c.kind,
        principals.c.global_role,
        principals.c.epoch,
        _EVERY_PROJECT_ROLE,
        tokens.c.id.label("token_id"),
        tokens.c.role.label("token_role"),
        tokens.c.expires_at.label("token_expires_at"),
        tokens.c.project_id.label("token_project_id"),
        _TOKEN_PROJECT.c.name.label("token_project"),
    )


def actor_of_row(row: Mapping[str, Any], repositories: Mapping[str, tuple[str, ...]] | None = None) -> Actor:
    """The actor in a row of one of the statements above."""
    return Actor(
        name=row["name"],
        principal_id=row["id"],
        kind=row["kind"],
        global_role=row["global_role"],
        roles=row["roles"],
        token_project=row["token_project"],
        token_role=row["token_role"],
        epoch=row["epoch"],
        token_id=row["token_id"],
        token_expires_at=row["token_expires_at"],
        repositories=repositories,
    )


@dataclass(frozen=True, slots=True)
class ActorQuestion:
    """A statement that finds an actor, with its parameters, for callers that ask more in the same round trip.

    The statements are made once: making one takes longer than PostgreSQL needs to answer it.
    """

    statement: Select[Any]
    parameters: Mapping[str, Any]


_NOW: Final = bindparam("at", type_=DateTime(timezone=True))
_USER: Final = bindparam("user_name", type_=Text)
_USABLE_THEN: Final = and_(
    tokens.c.revoked_at.is_(None), or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > _NOW)
)
_BY_TOKEN: Final = (
    _actor_columns()
    .select_from(
        tokens.join(principals, tokens.c.principal_id == principals.c.id).outerjoin(
            _TOKEN_PROJECT, tokens.c.project_id == _TOKEN_PROJECT.c.id
        )
    )
    .where(
        tokens.c.hash == bindparam("token_hash", type_=LargeBinary),
        _USABLE_THEN,
        principals.c.disabled.is_(False),
        or_(_USER.is_(None), principals.c.name == _USER),
    )
)


def _by_claims(source: Any) -> Select[Any]:
    return (
        _actor_columns()
        .select_from(source.outerjoin(_TOKEN_PROJECT, tokens.c.project_id == _TOKEN_PROJECT.c.id))
        .where(
            principals.c.id == bindparam("principal_id", type_=BigInteger),
            principals.c.name == bindparam("user_name", type_=Text),
            principals.c.epoch == bindparam("epoch", type_=Integer),
            principals.c.disabled.is_(False),
        )
    )


_BY_CLAIMS: Final = _by_claims(
    principals.join(
        tokens,
        and_(
            tokens.c.id == bindparam("token_id", type_=BigInteger),
            tokens.c.principal_id == principals.c.id,
            _USABLE_THEN,
        ),
    )
)
_BY_CLAIMS_ALONE: Final = _by_claims(principals.outerjoin(tokens, false()))


def question_by_token(token_text: str, user_name: str | None, now: datetime) -> ActorQuestion | None:
    """The question behind `actor_by_token`; None when nobody can match."""
    if user_name is not None and "\0" in user_name:  # PostgreSQL would refuse the question
        return None
    return ActorQuestion(_BY_TOKEN, {"token_hash": hash_token(token_text), "user_name": user_name, "at": now})


def question_by_claims(claims: BearerClaims, now: datetime) -> ActorQuestion:
    """The question behind `actor_by_claims`."""
    who = {"principal_id": claims.principal_id, "user_name": claims.name, "epoch": claims.epoch}
    if claims.token_id is None:
        return ActorQuestion(_BY_CLAIMS_ALONE, who)
    return ActorQuestion(_BY_CLAIMS, who | {"token_id": claims.token_id, "at": now})


async def actor_by_token(
    conn: AsyncConnection, token_text: str, user_name: str | None, now: datetime | None = None
) -> Actor | None:
    """Who holds this API token at `now`? None when it is unknown, revoked, expired, or its principal is disabled.

    With `user_name` (Basic authentication) the token must belong to that principal. One query.
    """
    question = question_by_token(token_text, user_name, now or datetime.now(UTC))
    return None if question is None else await actor_by_question(conn, question, None)


async def actor_by_claims(conn: AsyncConnection, claims: BearerClaims, now: datetime | None = None) -> Actor | None:
    """Who is behind a verified bearer token, by what the database says now?

    Epoch, disabled flag, revocation of the API token it came from, that token's scope and all roles are read again.
    None when any of them voids the token. `repositories` of the actor are those of the claims.
    """
    question = question_by_claims(claims, now or datetime.now(UTC))
    return await actor_by_question(conn, question, claims.repositories)


async def actor_by_question(
    conn: AsyncConnection, question: ActorQuestion, repositories: Mapping[str, tuple[str, ...]] | None
) -> Actor | None:
    """Ask one of the two questions."""
    row = (await conn.execute(question.statement, dict(question.parameters))).mappings().first()
    return None if row is None else actor_of_row(row, repositories)


async def bearer_secret(conn: AsyncConnection, candidate: bytes) -> bytes:
    """The secret that signs bearer tokens of this installation; `candidate` becomes it when there is none yet."""
    await conn.execute(
        pg_insert(installation).values(key="bearer_secret", value={"hex": candidate.hex()}).on_conflict_do_nothing()
    )
    value = (await conn.execute(select(installation.c.value).where(installation.c.key == "bearer_secret"))).scalar_one()
    return bytes.fromhex(value["hex"])


_PROJECT_COLUMNS: Final = (
    projects.c.id,
    projects.c.name,
    projects.c.description,
    projects.c.policy,
    projects.c.policy_hash,
    projects.c.trust_hash,
    projects.c.home,
    projects.c.publishing,
    projects.c.created_at,
)


async def project_by_name(conn: AsyncConnection, name: str, *, lock: bool = False) -> ProjectRow | None:
    """The project, or None. `lock` keeps it from being changed or filled until the transaction ends."""
    query = select(*_PROJECT_COLUMNS).where(projects.c.name == name)
    if lock:
        query = query.with_for_update()
    row = (await conn.execute(query)).mappings().first()
    return None if row is None else ProjectRow(**row)


async def list_projects(
    conn: AsyncConnection, *, names: Collection[str] | None, after: str | None, limit: int
) -> list[ProjectRow]:
    """Projects by name, behind `after`; `names` limits them to those (None: all)."""
    query = select(*_PROJECT_COLUMNS).order_by(projects.c.name).limit(limit)
    if names is not None:
        query = query.where(projects.c.name.in_(sorted(names)))
    if after is not None:
        query = query.where(projects.c.name > after)
    return [ProjectRow(**row) for row in (await conn.execute(query)).mappings()]


async def insert_project(
    conn: AsyncConnection,
    *,
    name: str,
    description: str,
    policy: Mapping[str, Any],
    policy_hash: str,
    trust_hash: str,
) -> ProjectRow | None:
    """The new project, or None when the name is taken."""
    query = (
        pg_insert(projects)
        .values(
            name=name,
            description=description,
            policy=dict(policy),
            policy_hash=policy_hash,
            trust_hash=trust_hash,
        )
        .on_conflict_do_nothing(index_elements=[projects.c.name])
        .returning(*_PROJECT_COLUMNS)
    )
    row = (await conn.execute(query)).mappings().first()
    return None if row is None else ProjectRow(**row)


async def update_project(conn: AsyncConnection, project_id: int, *, values: Mapping[str, Any]) -> ProjectRow:
    """The project after setting `values` (columns `description`, `home`, `publishing`)."""
    query = sql_update(projects).where(projects.c.id == project_id).values(dict(values)).returning(*_PROJECT_COLUMNS)
    return ProjectRow(**(await conn.execute(query)).mappings().one())


async def project_holds_content(conn: AsyncConnection, project_id: int) -> bool:
    """Does any repository of the project hold a manifest, a version number that is burnt, or a running upload?"""
    held = [
        exists(select(1).where(table.c.repository_id == repositories.c.id))
        for table in (repository_manifests, versions, uploads)
    ]
    query = select(exists(select(1).where(repositories.c.project_id == project_id, or_(*held))))
    return bool((await conn.execute(query)).scalar_one())


async def delete_project(conn: AsyncConnection, project_id: int) -> None:
    """Remove the project and its hollow repositories. The caller holds its row lock and found it empty."""
    await conn.execute(sql_delete(repositories).where(repositories.c.project_id == project_id))
    await conn.execute(sql_delete(projects).where(projects.c.id == project_id))


_PRINCIPAL_COLUMNS: Final = (
    principals.c.id,
    principals.c.name,
    principals.c.kind,
    principals.c.global_role,
    principals.c.epoch,
    principals.c.disabled,
    principals.c.created_at,
)


async def principal_by_name(conn: AsyncConnection, name: str, *, lock: bool = False) -> PrincipalRow | None:
    query = select(*_PRINCIPAL_COLUMNS).where(principals.c.name == name)
    if lock:
        query = query.with_for_update()
    row = (await conn.execute(query)).mappings().first()
    return None if row is None else PrincipalRow(**row)


async def list_principals(conn: AsyncConnection, *, after: str | None, limit: int) -> list[PrincipalRow]:
    query = select(*_PRINCIPAL_COLUMNS).order_by(principals.c.name).limit(limit)
    if after is not None:
        query = query.where(principals.c.name > after)
    return [PrincipalRow(**row) for row in (await conn.execute(query)).mappings()]


async def insert_principal(
    conn: AsyncConnection, *, name: str, kind: str, global_role: str | None
) -> PrincipalRow | None:
    """The new principal, or None when the name is taken."""
    query = (
        pg_insert(principals)
        .values(name=name, kind=kind, global_role=global_role)
        .on_conflict_do_nothing(index_elements=[principals.c.name])
        .returning(*_PRINCIPAL_COLUMNS)
    )
    row = (await conn.execute(query)).mappings().first()
    return None if row is None else PrincipalRow(**row)


async def set_disabled(conn: AsyncConnection, principal_id: int, *, disabled: bool) -> PrincipalRow:
    """Disable or enable. The epoch rises, so every bearer token issued before is void at once."""
    query = (
        sql_update(principals)
        .where(principals.c.id == principal_id)
        .values(disabled=disabled, epoch=principals.c.epoch + 1)
        .returning(*_PRINCIPAL_COLUMNS)
    )
    return PrincipalRow(**(await conn.execute(query)).mappings().one())


async def count_enabled_admins(conn: AsyncConnection) -> int:
    """How many principals may still administer the service? Locks them, so that two cannot remove each other."""
    query = (
        select(principals.c.id)
        .where(principals.c.global_role == "admin", principals.c.disabled.is_(False))
        .order_by(principals.c.id)
        .with_for_update()
    )
    return len((await conn.execute(query)).all())


def _token_rows() -> Select[Any]:
    return select(
        tokens.c.id,
        principals.c.name.label("user"),
        principals.c.id.label("principal_id"),
        tokens.c.name,
        projects.c.name.label("project"),
        tokens.c.role,
        tokens.c.created_at,
        tokens.c.expires_at,
        tokens.c.revoked_at,
    ).select_from(
        tokens.join(principals, tokens.c.principal_id == principals.c.id).outerjoin(
            projects, tokens.c.project_id == projects.c.id
        )
    )


async def token_by_id(conn: AsyncConnection, token_id: int) -> TokenRow | None:
    row = (await conn.execute(_token_rows().where(tokens.c.id == token_id))).mappings().first()
    return None if row is None else TokenRow(**row)


async def list_tokens(
    conn: AsyncConnection,
    *,
    principal_id: int | None,
    token_id: int | None,
    projects_managed: Collection[str] | None,
    project: str | None,
    after: int | None,
    limit: int,
) -> list[TokenRow]:
    """Tokens by id behind `after`: those of `principal_id`, the one `token_id`, and those of `projects_managed`.

    `projects_managed` None: tokens of everyone. `project` keeps only those limited to that project.
    """
    query = _token_rows().order_by(tokens.c.id).limit(limit)
    if projects_managed is not None:
        query = query.where(
            or_(
                tokens.c.principal_id == principal_id if principal_id is not None else false(),
                tokens.c.id == token_id if token_id is not None else false(),
                projects.c.name.in_(sorted(projects_managed)),
            )
        )
    if project is not None:
        query = query.where(projects.c.name == project)
    if after is not None:
        query = query.where(tokens.c.id > after)
    return [TokenRow(**row) for row in (await conn.execute(query)).mappings()]


async def insert_token(
    conn: AsyncConnection,
    *,
    principal_id: int,
    hashed: bytes,
    name: str,
    project_id: int | None,
    role: str | None,
    expires_at: datetime | None,
) -> int:
    """Store a token's hash; its id."""
    query = (
        sql_insert(tokens)
        .values(
            principal_id=principal_id,
            hash=hashed,
            name=name,
            project_id=project_id,
            role=role,
            expires_at=expires_at,
        )
        .returning(tokens.c.id)
    )
    return int((await conn.execute(query)).scalar_one())


async def revoke_tokens(conn: AsyncConnection, token_ids: Sequence[int], *, now: datetime) -> None:
    """Mark these tokens revoked; those revoked before keep their date."""
    await conn.execute(
        sql_update(tokens).where(tokens.c.id.in_(token_ids), tokens.c.revoked_at.is_(None)).values(revoked_at=now)
    )


async def live_project_tokens(conn: AsyncConnection, *, principal_id: int, project_id: int) -> list[tuple[int, str]]:
    """Id and role of each unrevoked token of the principal that is limited to the project."""
    query = select(tokens.c.id, tokens.c.role).where(
        tokens.c.principal_id == principal_id, tokens.c.project_id == project_id, tokens.c.revoked_at.is_(None)
    )
    return [(row.id, row.role) for row in await conn.execute(query)]


async def member_role(conn: AsyncConnection, *, project_id: int, principal_id: int) -> str | None:
    """The principal's role in the project, locked until the transaction ends."""
    query = (
        select(memberships.c.role)
        .where(memberships.c.project_id == project_id, memberships.c.principal_id == principal_id)
        .with_for_update()
    )
    return (await conn.execute(query)).scalar_one_or_none()


async def list_members(conn: AsyncConnection, project_id: int, *, after: str | None, limit: int) -> list[MemberRow]:
    query = (
        select(
            principals.c.name.label("user"),
            principals.c.id.label("principal_id"),
            principals.c.kind,
            memberships.c.role,
            principals.c.disabled,
        )
        .select_from(memberships.join(principals, memberships.c.principal_id == principals.c.id))
        .where(memberships.c.project_id == project_id, true() if after is None else principals.c.name > after)
        .order_by(principals.c.name)
        .limit(limit)
    )
    return [MemberRow(**row) for row in (await conn.execute(query)).mappings()]


async def put_member(conn: AsyncConnection, *, project_id: int, principal_id: int, role: str) -> None:
    query = pg_insert(memberships).values(project_id=project_id, principal_id=principal_id, role=role)
    await conn.execute(
        query.on_conflict_do_update(
            index_elements=[memberships.c.project_id, memberships.c.principal_id], set_={"role": query.excluded.role}
        )
    )


async def delete_member(conn: AsyncConnection, *, project_id: int, principal_id: int) -> None:
    await conn.execute(
        sql_delete(memberships).where(
            memberships.c.project_id == project_id, memberships.c.principal_id == principal_id
        )
    )


async def insert_audit(
    conn: AsyncConnection,
    *,
    principal: str | None,
    action: str,
    project: str | None,
    object: str,  # noqa: A002 - the column's own name
    outcome: str,
    detail: Mapping[str, Any],
) -> None:
    await conn.execute(
        sql_insert(audit).values(
            principal=principal, action=action, project=project, object=object, outcome=outcome, detail=dict(detail)
        )
    )


async def list_audit(conn: AsyncConnection, *, project: str | None, after: int | None, limit: int) -> list[AuditRow]:
    """Audit rows, newest first; `after` continues behind that id."""
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if project is not None:
        query = query.where(audit.c.project == project)
    if after is not None:
        query = query.where(audit.c.id < after)
    return [AuditRow(**row) for row in (await conn.execute(query)).mappings()]
