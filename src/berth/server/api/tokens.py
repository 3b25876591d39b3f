"""/tokens: what programs sign in with. A token's text is shown once, when it is made."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from berth.access import grants
from berth.access.queries import TokenRow
from berth.server.api.calls import acting
from berth.server.api.operations import MAX_ID, PAGE, After, Limit, Text, after_id, operation, resource

router = resource("tokens")


class Token(BaseModel):
    """A token without its text. With `project` set it holds exactly `role` there and nothing elsewhere."""

    id: int
    user: str
    name: str
    project: str | None
    role: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class MadeToken(Token):
    token: str = Field(description="The text to sign in with. It is never shown again.")


class TokenPage(BaseModel):
    items: list[Token]
    next: str | None


class NewToken(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user: Text = Field(max_length=128, examples=["ci-robot"])
    project: Text | None = Field(None, max_length=200, description="Limits the token; needs `role`.")
    role: Text | None = Field(None, description="Exactly this role in `project`.")
    name: Text = Field("", max_length=200, description="What it is for.")
    expires_in_days: int | None = Field(None, ge=1, le=grants.MAX_DAYS, description="Without it: never.")


@router.post("/tokens", status_code=201, **operation("self.manage", "createToken", "Make a token", conflict=True))
async def create(request: Request, body: NewToken) -> MadeToken:
    """Everyone makes tokens for themselves, up to their own role; maintainers for robots; global admins for anyone."""
    async with acting(request) as call:
        project = None if body.project is None else await call.enter(body.project, "project.read")
        made = await grants.create_token(
            call.conn,
            call.actor,
            user=body.user,
            project=project,
            role=body.role,
            name=body.name,
            expires_in_days=body.expires_in_days,
            now=call.now,
        )
        return MadeToken(token=made.text, **_shown(made.row).model_dump())


@router.get("/tokens", **operation("self.browse", "listTokens", "List your tokens and those you manage"))
async def index(
    request: Request,
    project: Annotated[str | None, Query(description="Only tokens limited to this project.")] = None,
    limit: Limit = PAGE,
    after: After = None,
) -> TokenPage:
    async with acting(request) as call:
        if project is not None:
            await call.enter(project, "project.read")
        rows = await grants.list_tokens(call.conn, call.actor, project=project, after=after_id(after), limit=limit)
        return TokenPage(items=[_shown(row) for row in rows], next=str(rows[-1].id) if len(rows) == limit else None)


@router.delete("/tokens/{token_id}", status_code=204, **operation("self.manage", "revokeToken", "Revoke a token"))
async def revoke(request: Request, token_id: Annotated[int, Path(ge=1, le=MAX_ID)]) -> Response:
    async with acting(request) as call:
        await grants.revoke_token(call.conn, call.actor, token_id=token_id, now=call.now)
    return Response(status_code=204)


def _shown(row: TokenRow) -> Token:
    return Token(
        id=row.id,
        user=row.user,
        name=row.name,
        project=row.project,
        role=row.role,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
