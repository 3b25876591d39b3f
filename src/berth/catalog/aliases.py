"""Movable names such as `production`: set, remove, roll back one step, and who was it at a given time (N2)."""

from __future__ import annotations

import re
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.catalog import queries
from berth.catalog.resolve import form_of
from berth.errors import Conflict, NameInvalid, NotFound
from berth.oci import referrers
from berth.oci.version import is_virtual_tag

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*")


def check_alias(name: str) -> None:
    """Raise NameInvalid unless `name` can be an alias: lower case, starts with a letter, not a version or range."""
    taken = is_virtual_tag(name) or form_of(name) != "name" or referrers.subject_of_tag(name) is not None
    if len(name) > 128 or not _NAME.fullmatch(name) or taken:
        raise NameInvalid(
            f"'{name}' cannot be an alias.",
            hint="Use a lower-case word such as 'production'; 'latest' and version numbers are reserved.",
        )


async def set_alias(
    conn: AsyncConnection, *, repository_id: int, name: str, version_id: int, by: str, reason: str = ""
) -> None:
    """Point an alias at a version. Raises NameInvalid, Conflict (a stored tag has that name) or NotFound."""
    check_alias(name)
    await queries.lock_repository(conn, repository_id)
    if await queries.tag_digest(conn, repository_id, name) is not None:
        raise Conflict(f"'{name}' is a tag here already.", hint="Choose another alias, or delete the tag first.")
    version = await queries.version_by_id(conn, version_id)
    if version is None or version.repository_id != repository_id or version.state == "deleted":
        raise NotFound("That version does not exist in this repository.")
    await queries.move_alias(conn, repository_id=repository_id, name=name, version_id=version_id, by=by, reason=reason)


async def remove_alias(conn: AsyncConnection, *, repository_id: int, name: str, by: str) -> None:
    await queries.lock_repository(conn, repository_id)
    if await queries.alias_target(conn, repository_id, name) is None:
        raise NotFound(f"There is no alias '{name}' here.")
    await queries.move_alias(conn, repository_id=repository_id, name=name, version_id=None, by=by, reason="removed")


async def rollback_alias(conn: AsyncConnection, *, repository_id: int, name: str, by: str) -> int:
    """Go back to where the alias pointed before its last move; returns that version's id. Conflict if nowhere."""
    await queries.lock_repository(conn, repository_id)
    moves = await queries.last_moves(conn, repository_id, name, 2)
    if len(moves) < 2 or moves[1] is None:
        raise Conflict(f"Alias '{name}' has no earlier position to go back to.")
    version = await queries.version_by_id(conn, moves[1])
    if version is None or version.state == "deleted":
        raise Conflict(f"Alias '{name}' pointed at a version that has been deleted since.")
    await queries.move_alias(
        conn, repository_id=repository_id, name=name, version_id=moves[1], by=by, reason="rollback"
    )
    return moves[1]


async def alias_at(conn: AsyncConnection, *, repository_id: int, name: str, at: datetime) -> int | None:
    """Id of the version the alias meant at that instant, or None."""
    return await queries.alias_version_at(conn, repository_id, name, at)
