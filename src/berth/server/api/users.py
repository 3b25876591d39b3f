"""/users: the principals of the service, people and robots alike."""

from __future__ import annotations

from datetime import datetime

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from berth.access import queries
from berth.access import users as access_users
from berth.access.queries import PrincipalRow
from berth.server.api.calls import acting
from berth.server.api.operations import PAGE, After, Limit, Text, operation, resource

router = resource("users")


class User(BaseModel):
    name: str
    kind: str
    global_role: str | None
    disabled: bool
    created_at: datetime


class UserPage(BaseModel):
    items: list[User]
    next: str | None


class NewUser(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Text = Field(max_length=128, examples=["alice"])
    kind: Text = Field("user", description="user, robot, scanner, sync or ci.")
    global_role: Text | None = Field(None, description="auditor or admin; most principals have none.")


class UserChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    disabled: bool | None = Field(None, description="A disabled principal's tokens stop working at once.")


@router.post("/users", status_code=201, **operation("user.manage", "createUser", "Add a principal", conflict=True))
async def create(request: Request, body: NewUser) -> User:
    async with acting(request) as call:
        row = await access_users.create_user(
            call.conn, call.actor, name=body.name, kind=body.kind, global_role=body.global_role
        )
        return _shown(row)


@router.get("/users", **operation("user.read", "listUsers", "List the principals"))
async def index(request: Request, limit: Limit = PAGE, after: After = None) -> UserPage:
    async with acting(request) as call:
        rows = await queries.list_principals(call.conn, after=after, limit=limit)
        return UserPage(items=[_shown(row) for row in rows], next=rows[-1].name if len(rows) == limit else None)


@router.patch("/users/{name}", **operation("user.manage", "changeUser", "Disable or enable a principal", conflict=True))
async def change(request: Request, name: str, body: UserChange) -> User:
    async with acting(request) as call:
        if body.disabled is None:
            return _shown(await access_users.user_named(call.conn, name))
        return _shown(await access_users.set_disabled(call.conn, call.actor, name=name, disabled=body.disabled))


def _shown(row: PrincipalRow) -> User:
    return User(
        name=row.name,
        kind=row.kind,
        global_role=row.global_role,
        disabled=row.disabled,
        created_at=row.created_at,
    )
