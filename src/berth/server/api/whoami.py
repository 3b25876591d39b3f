"""GET /whoami: who does the service think I am, and what may I do where?"""

from __future__ import annotations

from datetime import datetime

from fastapi import Request
from pydantic import BaseModel

from berth.server.api.calls import acting
from berth.server.api.operations import operation, resource

router = resource("account")


class WhoAmI(BaseModel):
    """The caller. With `token_project` set, the token holds exactly `token_role` there and nothing elsewhere."""

    name: str
    kind: str
    global_role: str | None
    roles: dict[str, str]
    token_project: str | None
    token_role: str | None
    token_expires_at: datetime | None


@router.get("/whoami", **operation("self.read", "whoAmI", "Who am I, and with which roles?"))
async def whoami(request: Request) -> WhoAmI:
    async with acting(request) as call:
        actor = call.actor
        return WhoAmI(
            name=call.who,
            kind=actor.kind,
            global_role=None if actor.scoped else actor.global_role,
            roles={} if actor.scoped else dict(sorted(actor.roles.items())),
            token_project=actor.token_project,
            token_role=actor.token_role,
            token_expires_at=actor.token_expires_at,
        )
