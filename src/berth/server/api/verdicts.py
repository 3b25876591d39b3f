"""…/versions/{ref}/verdict: may this version leave, and why (not)? The same answer as the gateway gives."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, Field

from berth.gates import verdicts as gates
from berth.gates.decide import FOREVER
from berth.oci.version import to_tag
from berth.server.api.addressed import Addressed, addressed, reasons_of
from berth.server.api.calls import Call, acting
from berth.server.api.operations import operation, resource
from berth.sync.publishing import queries as placing

router = resource("verdicts")


class Verdict(BaseModel):
    """The gate's answer about one version. The hashes name the policy and the evidence that it rests on."""

    model: str
    version: str
    digest: str
    verdict: Literal["allow", "deny"]
    reasons: list[dict[str, Any]] = Field(
        description="Each with `code` and `message`, worst first; on allow, what deserves attention.",
        examples=[[{"code": "approval.missing", "message": "Nobody has approved this version."}]],
    )
    valid_until: datetime | None = Field(description="When time alone could change the answer; null: never.")
    decided_at: datetime
    policy_hash: str
    trust_hash: str
    evidence_hash: str


@router.get(
    "/projects/{project}/models/{model}/versions/{ref}/verdict",
    **operation("evidence.read", "getVerdict", "May this version leave, and why (not)?"),
)
async def show(request: Request, project: str, model: str, ref: str) -> Verdict:
    async with acting(request) as call:
        place = await addressed(call, ref)
        row = await gates.verdict_of(call.conn, place.repository.id, place.version.digest, call.now)
        return Verdict(
            model=place.repository.name,
            version=place.version.version,
            digest=place.version.digest,
            verdict="allow" if row.admitted else "deny",
            reasons=reasons_of(row) + ([] if row.admitted else await _exposed(call, place)),
            valid_until=None if row.valid_until is None or row.valid_until >= FOREVER else row.valid_until,
            decided_at=row.decided_at,
            policy_hash=row.policy_hash,
            trust_hash=row.trust_hash,
            evidence_hash=row.evidence_hash,
        )


async def _exposed(call: Call, place: Addressed) -> list[dict[str, Any]]:
    """Where a denied version can still be had: its withdrawal failed, or the policy leaves it there."""
    rows = await placing.placements_of(call.conn, place.repository.id, place.version.digest)
    return [
        {
            "code": "exposed",
            "message": f"Exposed at {row.registry} as {row.repository}:{to_tag(row.version)}. {row.error or ''}",
        }
        for row in rows
        if row.state == "exposed"
    ]
