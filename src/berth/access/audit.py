"""Who did or tried what? One row for every change and every denied try, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from berth.access import queries
from berth.access.decide import Actor
from berth.access.queries import AsyncConnection

DONE: Final = "done"
DENIED: Final = "denied"


async def record(
    conn: AsyncConnection,
    *,
    actor: Actor | str | None,
    action: str,
    project: str | None,
    object: str = "",  # noqa: A002 - the column's own name
    outcome: str = DONE,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Append one row. `actor` is the actor or a principal's name (None: anonymous), `action` an access action.

    `object` names what was acted on (`model@digest`, a user, `token 7`); `detail` holds JSON facts and never secrets.
    """
    await queries.insert_audit(
        conn,
        principal=actor.name if isinstance(actor, Actor) else actor,
        action=action,
        project=project,
        object=object,
        outcome=outcome,
        detail=detail or {},
    )
