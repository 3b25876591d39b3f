"""…/versions/{ref}/approval: what people decided about a version."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from berth.access import audit
from berth.catalog.queries import RepositoryRow
from berth.gates import evidence as gates
from berth.oci.digest import is_digest
from berth.server.api import queries
from berth.server.api.addressed import addressed
from berth.server.api.calls import Call, acting
from berth.server.api.operations import PAGE, After, Limit, Text, after_id, operation, resource

router = resource("approvals")
_APPROVAL = "/projects/{project}/models/{model}/versions/{ref}/approval"


class Approval(BaseModel):
    digest: str
    decision: str
    principal: str
    note: str
    decided_at: datetime


class ApprovalPage(BaseModel):
    items: list[Approval]
    next: str | None


class NewDecision(BaseModel):
    model_config = ConfigDict(extra="forbid")

    decision: Literal["approved", "rejected", "revoked"]
    note: Text = Field("", max_length=4000)


@router.post(
    _APPROVAL, status_code=201, **operation("version.approve", "decideApproval", "Approve, reject or revoke a version")
)
async def decide(request: Request, project: str, model: str, ref: str, body: NewDecision) -> Approval:
    """Needs the exact version or digest: nobody approves what `latest` may mean tomorrow. Counts at once.

    The digest of a part (an image or checkpoint inside versions) can be rejected or revoked: every version that holds
    it is denied from then on.
    """
    async with acting(request) as call:
        repository, digest, name = await _decided(call, ref, body.decision)
        await gates.decide_approval(
            call.conn,
            repository_id=repository.id,
            digest=digest,
            decision=body.decision,
            principal=call.who,
            note=body.note,
            now=call.now,
        )
        await audit.record(
            call.conn,
            actor=call.actor,
            action="version.approve",
            project=call.project.name,
            object=name,
            detail={"decision": body.decision, "digest": digest, "note": body.note},
        )
        return Approval(
            digest=digest,
            decision=body.decision,
            principal=call.who,
            note=body.note,
            decided_at=call.now,
        )


async def _decided(call: Call, ref: str, decision: str) -> tuple[RepositoryRow, str, str]:
    """(repository, digest, name for the audit log) of what a decision is about. Raises as `addressed`."""
    repository = await call.repository()
    if is_digest(ref) and decision != "approved":
        return repository, ref, f"{repository.name}@{ref}"
    place = await addressed(call, ref, exact=True)
    return repository, place.version.digest, place.name


@router.get(_APPROVAL, **operation("evidence.read", "listApprovals", "What people decided, newest first"))
async def index(
    request: Request, project: str, model: str, ref: str, limit: Limit = PAGE, after: After = None
) -> ApprovalPage:
    async with acting(request) as call:
        place = await addressed(call, ref)
        rows = await queries.list_approvals(
            call.conn, place.repository.id, place.version.digest, after=after_id(after), limit=limit
        )
        items = [
            Approval(
                digest=row.digest,
                decision=row.decision,
                principal=row.principal,
                note=row.note,
                decided_at=row.decided_at,
            )
            for row in rows
        ]
        return ApprovalPage(items=items, next=str(rows[-1].id) if len(rows) == limit else None)
