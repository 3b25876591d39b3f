"""Who may make which token, see it, and end it? (design §6 "Tokens")

Global admins make any. Everyone makes tokens for themselves, never with more than they hold. Who holds
`token.manage` in a project makes tokens for robots and service identities there, up to their own role; a token in
another person's name would let them sign that person's deeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from berth.access import audit, queries
from berth.access.decide import Actor, decide, held_in, may_grant
from berth.access.queries import AsyncConnection, PrincipalRow, ProjectRow, TokenRow
from berth.access.roles import actions_of
from berth.access.tokens import new_token
from berth.access.users import user_named
from berth.errors import Conflict, Forbidden, InvalidInput, NotFound

MAX_DAYS: Final = 3650


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made. `text` is shown once and stored nowhere."""

    row: TokenRow
    text: str


async def create_token(
    conn: AsyncConnection,
    actor: Actor,
    *,
    user: str,
    project: ProjectRow | None,
    role: str | None,
    name: str = "",
    expires_in_days: int | None = None,
    now: datetime,
) -> NewToken:
    """Make a token for `user`: exactly `role` in `project`, or, without both, everything the user holds.

    A token that someone makes for themselves ends no later than the token they made it with.

    Raises:
        InvalidInput: only one of project and role, an unknown role, or days out of range.
        NotFound: no such user. Conflict: the user is disabled. Forbidden: see the rule of this file.
    """
    if (project is None) != (role is None):
        raise InvalidInput("A token takes a project and a role, or neither.", hint="Give both or leave out both.")
    if expires_in_days is not None and not 1 <= expires_in_days <= MAX_DAYS:
        raise InvalidInput(f"A token lives 1 to {MAX_DAYS} days, or for ever.", hint="Leave the days out for ever.")
    if role is not None:
        actions_of(role)
    owner = await user_named(conn, user)
    if owner.disabled:
        raise Conflict(f"'{user}' is disabled.", hint="Enable the user first.")
    _check_may_create(actor, owner, project=project, role=role)
    expires = None if expires_in_days is None else now + timedelta(days=expires_in_days)
    if owner.id == actor.principal_id and actor.token_expires_at is not None:
        expires = actor.token_expires_at if expires is None else min(expires, actor.token_expires_at)
    text, hashed = new_token()
    token_id = await queries.insert_token(
        conn,
        principal_id=owner.id,
        hashed=hashed,
        name=name,
        project_id=None if project is None else project.id,
        role=role,
        expires_at=expires,
    )
    project_name = None if project is None else project.name
    detail = {
        "made": token_id,
        "user": user,
        "role": role,
        "name": name,
        "expires_at": None if expires is None else expires.isoformat(),
    }
    await audit.record(
        conn, actor=actor, action="token.manage", project=project_name, object=f"token {token_id}", detail=detail
    )
    row = await queries.token_by_id(conn, token_id)
    if row is None:  # pragma: no cover - the row was inserted in this transaction
        raise NotFound(f"There is no token {token_id}.")
    return NewToken(row, text)


async def revoke_token(conn: AsyncConnection, actor: Actor, *, token_id: int, now: datetime) -> None:
    """End a token at once. Ending it again changes nothing.

    Raises:
        NotFound: there is no such token, or the actor may not know of it.
    """
    row = await queries.token_by_id(conn, token_id)
    if row is None or not _manages(actor, row):
        raise NotFound(f"There is no token {token_id}.")
    if row.revoked_at is not None:
        return
    await queries.revoke_tokens(conn, [token_id], now=now)
    detail = {"revoked": token_id, "user": row.user}
    await audit.record(
        conn, actor=actor, action="token.manage", project=row.project, object=f"token {token_id}", detail=detail
    )


async def list_tokens(
    conn: AsyncConnection, actor: Actor, *, project: str | None, after: int | None, limit: int
) -> list[TokenRow]:
    """Tokens that the actor may see: their own, and those of projects whose tokens they manage."""
    managed: list[str] | None
    if decide(actor, "token.manage", None).allowed:
        managed = None
    else:
        candidates = [actor.token_project] if actor.scoped else list(actor.roles)
        managed = [name for name in candidates if name is not None and decide(actor, "token.manage", name).allowed]
    return await queries.list_tokens(
        conn,
        # A token limited to a project sees of its owner's tokens only itself.
        principal_id=None if actor.scoped else actor.principal_id,
        token_id=actor.token_id if actor.scoped else None,
        projects_managed=managed,
        project=project,
        after=after,
        limit=limit,
    )


def _check_may_create(actor: Actor, owner: PrincipalRow, *, project: ProjectRow | None, role: str | None) -> None:
    if decide(actor, "user.manage", None).allowed:
        return
    own = owner.id == actor.principal_id
    if project is None or role is None:
        if own and not actor.scoped:
            return
        raise Forbidden(
            f"You may not make a token with all rights of '{owner.name}'.",
            hint="Limit it to a project and a role, or ask a global admin.",
        )
    if not may_grant(actor, role=role, project=project.name):
        raise Forbidden(
            f"The role '{role}' in project '{project.name}' is above your own.",
            hint="Choose a role that you hold yourself.",
        )
    if own:
        return
    if "token.manage" not in held_in(actor, project.name):
        raise Forbidden(
            f"You may not make tokens for others in project '{project.name}'.",
            hint="That takes the role maintainer; tokens for yourself need no more than the role you give them.",
        )
    if owner.kind == "user":
        raise Forbidden(
            f"'{owner.name}' is a person; only they or a global admin make tokens in their name.",
            hint="Use a robot, or ask them to run `berth token create` themselves.",
        )


def _manages(actor: Actor, token: TokenRow) -> bool:
    if decide(actor, "user.manage", None).allowed:
        return True
    if token.principal_id == actor.principal_id and (not actor.scoped or token.id == actor.token_id):
        return True
    if token.project is None or token.role is None:
        return False
    return "token.manage" in held_in(actor, token.project) and may_grant(actor, role=token.role, project=token.project)
