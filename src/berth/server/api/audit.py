"""/audit: who changed what, and who was refused?"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import BaseModel

from berth.access import queries
from berth.server.api.calls import acting
from berth.server.api.operations import PAGE, After, Limit, after_id, operation, resource

router = resource("audit")


class AuditEntry(BaseModel):
    """One change or refused try. `outcome` is done or denied; `principal` null means nobody was signed in."""

    id: int
    at: datetime
    principal: str | None
    action: str
    project: str | None
    object: str
    outcome: str
    detail: dict[str, Any]


class AuditPage(BaseModel):
    items: list[AuditEntry]
    next: str | None


@router.get("/audit", **operation("audit.read", "listAudit", "List changes and refused tries, newest first"))
async def index(
    request: Request,
    project: Annotated[str | None, Query(description="Only this project; without it, everything.")] = None,
    limit: Limit = PAGE,
    after: After = None,
) -> AuditPage:
    """Maintainers read their project's rows; everything is for global auditors and admins."""
    async with acting(request, project=project) as call:
        rows = await queries.list_audit(call.conn, project=project, after=after_id(after), limit=limit)
        items = [
            AuditEntry(
                id=row.id,
                at=row.at,
                principal=row.principal,
                action=row.action,
                project=row.project,
                object=row.object,
                outcome=row.outcome,
                detail=dict(row.detail),
            )
            for row in rows
        ]
        return AuditPage(items=items, next=str(items[-1].id) if len(items) == limit else None)
