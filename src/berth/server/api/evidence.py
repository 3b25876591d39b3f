"""…/versions/{ref}/evidence, …/signatures, …/scans: what is known about a version, in full, and what is awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import Path, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from berth.access import audit
from berth.catalog import queries as catalog_queries
from berth.db import queue
from berth.errors import NotFound
from berth.gates import evidence as gates
from berth.gates.decide import NEEDS
from berth.server.api import queries
from berth.server.api.addressed import Addressed, addressed
from berth.server.api.calls import Call, acting
from berth.server.api.operations import MAX_ID, PAGE, After, Limit, after_id, operation, resource

router = resource("evidence")
_VERSION: Final = "/projects/{project}/models/{model}/versions/{ref}"
_JOBS: Final = {"vulnerabilities": "scan_vulnerabilities", "weights": "scan_weights"}
# Reports hold text from inside the image: a browser must neither run nor guess anything (design §6 "Untrusted text").
_UNTRUSTED: Final = {
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-store",
}


class Evidence(BaseModel):
    """One scan of one manifest of the version. `status` ok means that it ran to the end, not that nothing was found."""

    id: int
    digest: str
    kind: str
    status: str
    summary: dict[str, Any]
    tool: str
    tool_version: str
    database: dict[str, Any]
    started_at: datetime
    finished_at: datetime
    report_media_type: str | None = Field(description="Null: there is no report.")
    log: str


class EvidencePage(BaseModel):
    items: list[Evidence]
    next: str | None


class Signature(BaseModel):
    """One signature and the outcome of its last check. `key_name` is set when the project trusts the key now."""

    id: int
    subject: str
    kind: str
    manifest: str
    predicate_type: str | None
    key_id: str | None
    key_name: str | None
    verdict: str
    reason: str
    pushed_by: str
    checked_at: datetime


class SignaturePage(BaseModel):
    items: list[Signature]
    next: str | None


class Scan(BaseModel):
    digest: str
    kind: str
    state: str = Field(description="pending, ok, inconclusive or failed.")


class Scans(BaseModel):
    """Every scan of a version. `done`: none is pending."""

    items: list[Scan]
    pending: list[Scan]
    done: bool


@router.get(_VERSION + "/evidence", **operation("evidence.read", "listEvidence", "List the scans, newest first"))
async def index(
    request: Request, project: str, model: str, ref: str, limit: Limit = PAGE, after: After = None
) -> EvidencePage:
    async with acting(request) as call:
        place = await addressed(call, ref)
        rows = await queries.list_evidence(
            call.conn, place.repository.id, place.version.digest, after=after_id(after), limit=limit
        )
        items = [
            Evidence(
                id=row.id,
                digest=row.digest,
                kind=row.kind,
                status=row.status,
                summary=dict(row.summary),
                tool=row.tool,
                tool_version=row.tool_version,
                database=dict(row.database),
                started_at=row.started_at,
                finished_at=row.finished_at,
                report_media_type=row.report_media_type if row.report else None,
                log=row.log,
            )
            for row in rows
        ]
        return EvidencePage(items=items, next=str(rows[-1].id) if len(rows) == limit else None)


@router.get(
    _VERSION + "/evidence/{evidence_id}/report",
    response_class=StreamingResponse,
    **operation("evidence.read", "getReport", "The full report of a scan, as the scanner wrote it"),
)
async def report(
    request: Request, project: str, model: str, ref: str, evidence_id: Annotated[int, Path(ge=1, le=MAX_ID)]
) -> StreamingResponse:
    async with acting(request) as call:
        place = await addressed(call, ref)
        found = await queries.report_place(
            call.conn, place.repository.id, place.version.digest, evidence_id=evidence_id
        )
        if found is None:
            raise NotFound(f"{place.name} has no report {evidence_id}.", hint="List its evidence to see what there is.")
    # The transaction has ended: no connection is held while bytes flow. The first piece is read before the status
    # line is sent, so that a missing file is an error and not a broken answer.
    pieces = call.services.store.read(found.location, length=found.size)
    first = await anext(pieces, b"")
    return StreamingResponse(
        _joined(first, pieces),
        media_type=found.media_type,
        headers={
            **_UNTRUSTED,
            "Content-Length": str(found.size),
            "Content-Disposition": f'attachment; filename="report-{evidence_id}.json"',
            "ETag": f'"{found.digest}"',
        },
    )


@router.get(
    _VERSION + "/signatures", **operation("evidence.read", "listSignatures", "List every signature ever pushed")
)
async def signatures(
    request: Request, project: str, model: str, ref: str, limit: Limit = PAGE, after: After = None
) -> SignaturePage:
    async with acting(request) as call:
        place = await addressed(call, ref)
        rows = await queries.list_signatures(
            call.conn, place.repository.id, place.version.digest, after=after_id(after), limit=limit
        )
        items = [
            Signature(
                id=row.id,
                subject=row.subject,
                kind=row.kind,
                manifest=row.manifest,
                predicate_type=row.predicate_type,
                key_id=row.key_id,
                key_name=row.key_name,
                verdict=row.verdict,
                reason=row.reason,
                pushed_by=row.pushed_by,
                checked_at=row.checked_at,
            )
            for row in rows
        ]
        return SignaturePage(items=items, next=str(rows[-1].id) if len(rows) == limit else None)


@router.get(_VERSION + "/scans", **operation("evidence.read", "listScans", "Which scans are done, which awaited?"))
async def scans(request: Request, project: str, model: str, ref: str) -> Scans:
    async with acting(request) as call:
        return await _scans(call, await addressed(call, ref))


@router.post(_VERSION + "/scans", status_code=202, **operation("scan.start", "startScans", "Scan a version again"))
async def rescan(request: Request, project: str, model: str, ref: str) -> Scans:
    """Earlier reports stay; the verdict follows the new ones when they are there."""
    async with acting(request) as call:
        place = await addressed(call, ref)
        started: list[str] = []
        for digest, role in await catalog_queries.leaves_of(call.conn, place.repository.id, place.version.digest):
            for kind in NEEDS.get(role, ()):
                job = _JOBS[kind]
                # Somebody asked: scan although a fresh report is there.
                asked = f"asked {call.now.isoformat()}"
                await queue.defer(
                    call.conn, job, queue="scan", key=f"{job}:{digest}", digest=digest, input_version=asked
                )
                started.append(f"{job}:{digest}")
        await audit.record(
            call.conn,
            actor=call.actor,
            action="scan.start",
            project=call.project.name,
            object=place.name,
            detail={"scans": started},
        )
        return await _scans(call, place)


async def _scans(call: Call, place: Addressed) -> Scans:
    states = await gates.scans_of(call.conn, place.repository.id, place.version.digest, call.now)
    items = [Scan(digest=digest, kind=kind, state=state) for digest, kind, state in states]
    pending = [item for item in items if item.state == "pending"]
    return Scans(items=items, pending=pending, done=not pending)


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
