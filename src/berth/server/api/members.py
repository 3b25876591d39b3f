"""/projects/{project}/members: who belongs to a project, with which role?"""

from __future__ import annotations

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict

from berth.access import members as access_members
from berth.access import queries
from berth.access.queries import MemberRow
from berth.server.api.calls import acting
from berth.server.api.operations import PAGE, After, Limit, Text, operation, resource

router = resource("members")


class Member(BaseModel):
    user: str
    kind: str
    role: str
    disabled: bool


class MemberPage(BaseModel):
    items: list[Member]
    next: str | None


class NewRole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Text


@router.get("/projects/{project}/members", **operation("project.read", "listMembers", "List the members"))
async def index(request: Request, project: str, limit: Limit = PAGE, after: After = None) -> MemberPage:
    async with acting(request) as call:
        rows = await queries.list_members(call.conn, call.project.id, after=after, limit=limit)
        return MemberPage(items=[_shown(row) for row in rows], next=rows[-1].user if len(rows) == limit else None)


@router.put(
    "/projects/{project}/members/{user}", **operation("member.manage", "setMember", "Give a user exactly this role")
)
async def put(request: Request, project: str, user: str, body: NewRole) -> Member:
    """A lower role than before also revokes the user's tokens for this project that are above it."""
    async with acting(request) as call:
        row = await access_members.set_member(
            call.conn, call.actor, project=call.project, user=user, role=body.role, now=call.now
        )
        return _shown(row)


@router.delete(
    "/projects/{project}/members/{user}",
    status_code=204,
    **operation("member.manage", "removeMember", "Take a user's role in the project away"),
)
async def remove(request: Request, project: str, user: str) -> Response:
    """Also revokes the user's tokens that are limited to this project."""
    async with acting(request) as call:
        await access_members.remove_member(call.conn, call.actor, project=call.project, user=user, now=call.now)
    return Response(status_code=204)


def _shown(row: MemberRow) -> Member:
    return Member(user=row.user, kind=row.kind, role=row.role, disabled=row.disabled)
