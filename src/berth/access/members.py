"""Who belongs to a project, with which role? Nobody hands out, changes or takes a role above their own."""

from __future__ import annotations

from datetime import datetime

from berth.access import audit, queries
from berth.access.decide import Actor, may_grant
from berth.access.queries import AsyncConnection, MemberRow, ProjectRow
from berth.access.roles import ROLE_ACTIONS, actions_of
from berth.access.users import user_named
from berth.errors import Forbidden, NotFound


async def set_member(
    conn: AsyncConnection, actor: Actor, *, project: ProjectRow, user: str, role: str, now: datetime
) -> MemberRow:
    """Give `user` exactly `role` in the project. A lower role than before revokes their project tokens above it.

    Raises:
        InvalidInput: no such role. NotFound: no such user. Forbidden: the old or new role is above the actor's own.
    """
    wanted = actions_of(role)
    member = await user_named(conn, user)
    before = await queries.member_role(conn, project_id=project.id, principal_id=member.id)
    _check_grant(actor, project, role)
    if before is not None:
        _check_grant(actor, project, before)
    row = MemberRow(user=user, principal_id=member.id, kind=member.kind, role=role, disabled=member.disabled)
    if before == role:
        return row
    await queries.put_member(conn, project_id=project.id, principal_id=member.id, role=role)
    revoked: list[int] = []
    if before is not None and wanted < actions_of(before):
        revoked = await _revoke_above(conn, project=project, principal_id=member.id, kept=wanted, now=now)
    detail = {"role": role, "before": before, "revoked_tokens": revoked}
    await audit.record(conn, actor=actor, action="member.manage", project=project.name, object=user, detail=detail)
    return row


async def remove_member(conn: AsyncConnection, actor: Actor, *, project: ProjectRow, user: str, now: datetime) -> None:
    """Take the membership away, and with it every token of the user that is limited to this project.

    Raises:
        NotFound: not a member. Forbidden: the member's role is above the actor's own.
    """
    member = await user_named(conn, user)
    before = await queries.member_role(conn, project_id=project.id, principal_id=member.id)
    if before is None:
        raise NotFound(f"'{user}' is not a member of project '{project.name}'.")
    _check_grant(actor, project, before)
    await queries.delete_member(conn, project_id=project.id, principal_id=member.id)
    revoked = await _revoke_above(conn, project=project, principal_id=member.id, kept=frozenset(), now=now)
    detail = {"role": None, "before": before, "revoked_tokens": revoked}
    await audit.record(conn, actor=actor, action="member.manage", project=project.name, object=user, detail=detail)


async def _revoke_above(
    conn: AsyncConnection, *, project: ProjectRow, principal_id: int, kept: frozenset[str], now: datetime
) -> list[int]:
    live = await queries.live_project_tokens(conn, principal_id=principal_id, project_id=project.id)
    above = [token_id for token_id, role in live if not ROLE_ACTIONS.get(role, frozenset({role})) <= kept]
    if above:
        await queries.revoke_tokens(conn, above, now=now)
    return above


def _check_grant(actor: Actor, project: ProjectRow, role: str) -> None:
    if not may_grant(actor, role=role, project=project.name):
        raise Forbidden(
            f"The role '{role}' in project '{project.name}' is above your own.",
            hint="Ask someone who holds that role, or a global admin.",
        )
