"""How do principals come, and how are they locked out? People, robots and service identities alike."""

from __future__ import annotations

import re
import secrets
from typing import Final

from berth.access import audit, queries
from berth.access.decide import Actor
from berth.access.queries import AsyncConnection, PrincipalRow
from berth.access.roles import GLOBAL_ROLES, PRINCIPAL_KINDS
from berth.access.tokens import new_token
from berth.errors import Conflict, InvalidInput, NameInvalid, NotFound

# Lower case only, so that no two people differ by case; no colon, which ends the user part of Basic authentication.
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._@+-]{0,126}[a-z0-9])?")
_RESERVED: Final = frozenset({"anonymous", "system", "berth"})
ADMIN: Final = "admin"


def check_user(name: str) -> None:
    """May a principal have this name?

    Raises:
        NameInvalid: it breaks the rule or is reserved.
    """
    if _NAME.fullmatch(name) is None:
        raise NameInvalid(
            f"'{name[:128]}' is not a user name.",
            hint="Use 1 to 128 lower-case letters, digits and . _ - @ +, with a letter or digit at both ends.",
        )
    if name in _RESERVED:
        raise NameInvalid(f"The user name '{name}' is reserved.", hint="Choose another name.")


async def create_user(
    conn: AsyncConnection, actor: Actor, *, name: str, kind: str = "user", global_role: str | None = None
) -> PrincipalRow:
    """Add a principal. Only global admins get here (`user.manage`), so only they mark one scanner, sync or ci.

    Raises:
        NameInvalid: the name breaks the rule. InvalidInput: unknown kind or role. Conflict: the name is taken.
    """
    check_user(name)
    if kind not in PRINCIPAL_KINDS:
        raise InvalidInput(f"There is no kind '{kind}'.", hint=f"Kinds are: {', '.join(PRINCIPAL_KINDS)}.")
    if global_role is not None and global_role not in GLOBAL_ROLES:
        raise InvalidInput(
            f"There is no global role '{global_role}'.", hint=f"Global roles are: {', '.join(GLOBAL_ROLES)}."
        )
    row = await queries.insert_principal(conn, name=name, kind=kind, global_role=global_role)
    if row is None:
        raise Conflict(f"There is a user '{name}' already.", hint="Choose another name.")
    detail = {"kind": kind, "global_role": global_role}
    await audit.record(conn, actor=actor, action="user.manage", project=None, object=name, detail=detail)
    return row


async def user_named(conn: AsyncConnection, name: str, *, lock: bool = False) -> PrincipalRow:
    """The principal of that name.

    Raises:
        NotFound: there is none.
    """
    row = await queries.principal_by_name(conn, name, lock=lock)
    if row is None:
        raise NotFound(f"There is no user '{name}'.")
    return row


async def set_disabled(conn: AsyncConnection, actor: Actor, *, name: str, disabled: bool) -> PrincipalRow:
    """Lock a principal out, with every token, or let it in again. Setting what is already so changes nothing.

    Raises:
        NotFound: there is no such user. Conflict: it is the last one who can administer the service.
    """
    admins = await queries.count_enabled_admins(conn)
    row = await user_named(conn, name, lock=True)
    if row.disabled == disabled:
        return row
    if disabled and row.global_role == ADMIN and admins <= 1:
        raise Conflict(f"'{name}' is the last enabled global admin.", hint="Add another global admin first.")
    changed = await queries.set_disabled(conn, row.id, disabled=disabled)
    await audit.record(
        conn, actor=actor, action="user.manage", project=None, object=name, detail={"disabled": disabled}
    )
    return changed


async def ensure_admin(conn: AsyncConnection) -> str | None:
    """The first start: create the global admin `admin` with a token that never expires.

    Returns the token's text, which is stored nowhere, or None when there is an admin already. Two servers that start
    at once create one admin.
    """
    if await queries.count_enabled_admins(conn):
        return None
    row = await queries.insert_principal(conn, name=ADMIN, kind="user", global_role=ADMIN)
    if row is None:
        return None
    text, hashed = new_token()
    await queries.insert_token(
        conn, principal_id=row.id, hashed=hashed, name="first token", project_id=None, role=None, expires_at=None
    )
    await audit.record(conn, actor=None, action="user.manage", project=None, object=ADMIN, detail={"first": True})
    return text


async def ensure_bearer_secret(conn: AsyncConnection) -> bytes:
    """The 32 random bytes that sign this installation's bearer tokens; made at the first call, shared by replicas."""
    return await queries.bearer_secret(conn, secrets.token_bytes(32))
