"""/export and /import: versions with their evidence as one file, for where no network reaches.

Both stream. An export can be taken up again in its middle (`Range`, `If-Range`): the same content is the same bytes.
An import names nothing before the whole file is here and every digest was compared.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from berth.access import audit
from berth.access.decide import decide
from berth.catalog import queries as catalog
from berth.errors import Denied, InvalidInput, NameInvalid, NameUnknown, NotFound, RangeInvalid
from berth.gates import verdicts as gates
from berth.oci.digest import is_digest
from berth.oci.reference import ModelName, check_project
from berth.server.api.addressed import admitted, reasons_of
from berth.server.api.calls import Call, acting
from berth.server.api.operations import Text, operation
from berth.sync.depot import DepotRegistry
from berth.sync.moving import exporting, importing
from berth.sync.moving.choosing import Chosen, chosen
from berth.sync.moving.exporting import Export
from berth.sync.moving.importing import Plan
from berth.sync.moving.incoming import Incoming

# Not `resource()`: a file may be of any size, and is never held in memory.
router = APIRouter(tags=["archives"])
MEDIA_TYPE: Final = "application/x-tar"
MAX_REFS: Final = 500
_RANGE: Final = re.compile(r"bytes=(\d{1,19})-")

Refs = Annotated[
    list[Text],
    Query(max_length=MAX_REFS, description="project/model:ref or @digest; a range (`^1`, `*`) means all in it."),
]
Since = Annotated[
    list[Text], Query(max_length=MAX_REFS, description="Versions that the other side has: their blobs are left out.")
]


class ExportedVersion(BaseModel):
    name: str
    digest: str
    aliases: list[str]


class ExportPlan(BaseModel):
    """What a file would hold. `etag` names its very bytes."""

    versions: list[ExportedVersion]
    evidence: int
    blobs: int
    size: int
    etag: str
    blobs_left_out: int
    bytes_left_out: int


class ImportStep(BaseModel):
    """`action`: what is (or with `dry_run` would be) done: import, evidence, present, conflict, failed."""

    name: str = Field(description="In the file.")
    repository: str = Field(description="Here.")
    version: str
    digest: str
    action: str
    reason: str
    aliases: list[str] = Field(description="Names it had where it was exported; none is moved here.")
    evidence: int
    notes: list[str]


class MissingBlob(BaseModel):
    digest: str
    size: int


class ImportResult(BaseModel):
    """`missing`: with `dry_run`, the blobs that have to come with the file; others may be left out of it."""

    items: list[ImportStep]
    missing: list[MissingBlob]
    bytes_transferred: int
    dry_run: bool


@router.get("/export/plan", **operation("self.browse", "planExport", "What a file with these versions would hold"))
async def plan(request: Request, ref: Refs, since: Since = []) -> ExportPlan:  # noqa: B006 - FastAPI copies it
    async with acting(request) as call:
        found = await _prepared(call, ref, since)
    return ExportPlan(
        versions=[ExportedVersion(name=v.name, digest=v.digest, aliases=list(v.aliases)) for v in found.versions],
        evidence=found.evidence,
        blobs=found.blobs,
        size=found.size,
        etag=found.etag,
        blobs_left_out=found.left_out[0],
        bytes_left_out=found.left_out[1],
    )


@router.get(
    "/export",
    response_class=StreamingResponse,
    **operation("self.browse", "exportVersions", "Versions with their evidence as one file (tar of an image layout)"),
)
async def export(request: Request, ref: Refs, since: Since = []) -> Response:  # noqa: B006
    """What the gate lets out, and for those who may read quarantine that too. `Range: bytes=N-` goes on at byte N."""
    async with acting(request) as call:
        found = await _prepared(call, ref, since)
        for version in found.versions:
            await audit.record(
                call.conn,
                actor=call.actor,
                action="version.pull",
                project=version.repository.partition("/")[0],
                object=f"{version.repository}@{version.digest}",
                detail={"export": found.etag},
            )
    start = _start(request, found)
    headers = {
        "Content-Length": str(found.size - start),
        "Accept-Ranges": "bytes",
        "ETag": f'"{found.etag}"',
        "Content-Disposition": 'attachment; filename="export.tar"',
    }
    if start:
        headers["Content-Range"] = f"bytes {start}-{found.size - 1}/{found.size}"
    return StreamingResponse(
        exporting.stream(call.services.store, call.services.cache, found, start),
        status_code=206 if start else 200,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def _importing() -> dict[str, Any]:
    facts = operation("self.browse", "importVersions", "Take in versions from a file that /export wrote", conflict=True)
    body = {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
    facts["openapi_extra"] = {**facts["openapi_extra"], "requestBody": body}
    return facts


@router.post("/import", **_importing())
async def import_(
    request: Request,
    project: Annotated[
        Text | None, Query(max_length=128, description="Bring all models into this project, whatever theirs was.")
    ] = None,
    dry_run: Annotated[
        bool, Query(description="Only say what would happen; nothing behind the manifests is read.")
    ] = False,
) -> ImportResult:
    """The caller needs the right to push to every project in the file. The same file again moves nothing.

    What arrives is scanned here: reports in the file are shown and never counted, signatures count if their key is
    trusted here. A version that is here with other bytes is a conflict and stays as it is.
    """
    if project is not None:
        check_project(project)
    async with acting(request):
        pass  # nobody who is not signed in sends us a file
    incoming = Incoming(_body(request))
    contents = await incoming.index()

    def rename(repository: str) -> str:
        return repository if project is None else f"{project}/{repository.partition('/')[2]}"

    async with acting(request) as call:  # manifests are held in memory: only for those who may bring them
        await _may_push(call, [rename(version.repository) for version in contents.versions])
    first = await incoming.manifests(contents)
    async with acting(request) as call:
        if len({(rename(v.repository), v.version) for v in contents.versions}) != len(contents.versions):
            raise InvalidInput("Two versions of the file would have one name here.", hint="Leave out `project`.")
        wanted = await importing.plan(call.conn, contents, rename)
    if dry_run:
        return _result(wanted, 0, dry_run=True)
    services = call.services
    depot = DepotRegistry(services.db, services.store, clock=services.clock, principal=call.who)
    kept = await importing.receive(depot, wanted, incoming, first)
    async with acting(request) as call:  # it may have taken hours
        await _may_push(call, [step.repository for step in wanted.steps])
    await importing.settle(depot, wanted)
    async with acting(request) as call:
        for step in wanted.steps:
            if step.action in ("import", "evidence"):
                await audit.record(
                    call.conn,
                    actor=call.actor,
                    action="version.push",
                    project=step.repository.partition("/")[0],
                    object=f"{step.repository}:{step.named.version}",
                    detail={"digest": step.named.digest, "import": step.named.name},
                )
    return _result(wanted, kept, dry_run=False)


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise ConnectionError("the client closed the connection") from error


async def _may_push(call: Call, repositories: Sequence[str]) -> None:
    for name in sorted({repository.partition("/")[0] for repository in repositories}):
        await call.enter(name, "version.push")


def _result(wanted: Plan, kept: int, *, dry_run: bool) -> ImportResult:
    missing = wanted.missing if dry_run else {}
    return ImportResult(
        items=[ImportStep(**importing.shown(step)) for step in wanted.steps],
        missing=[MissingBlob(digest=digest, size=size) for digest, size in sorted(missing.items())],
        bytes_transferred=kept,
        dry_run=dry_run,
    )


def _start(request: Request, found: Export) -> int:
    """The byte to begin with. Raises RangeInvalid for one behind the end."""
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    wanted = request.headers.get("if-range")
    if match is None or (wanted is not None and wanted != f'"{found.etag}"'):
        return 0
    start = int(match[1])
    if start >= found.size:
        raise RangeInvalid(
            f"The file has {found.size} bytes; there is no byte {start}.",
            hint="Compare its size with yours: you may have all of it.",
            detail={"size": found.size, "etag": found.etag},
        )
    return start


async def _prepared(call: Call, refs: Sequence[str], since: Sequence[str]) -> Export:
    if not refs:
        raise InvalidInput("Which versions?", hint="Name at least one: ref=project/model:1.0.0.")
    wanted = [one for text in refs for one in await versions_meant(call, text)]
    there: list[Chosen] = []
    for text in since:
        try:
            there += await versions_meant(call, text, gated=False)
        except NotFound:
            # A list that was made from an older file may name what has been deleted here since.
            if not is_digest(text.partition("@")[2]):
                raise
    return await exporting.prepare(call.conn, wanted, there, now=call.now)


async def versions_meant(call: Call, text: str, *, gated: bool = True) -> list[Chosen]:
    """The versions that `project/model[:ref]` or `@digest` means, if the caller may pull them now.

    Raises:
        NameInvalid, NameUnknown, NotFound, Forbidden; Denied: in quarantine, and the caller may not read that.
    """
    name, at, digest = text.partition("@")
    if not at:
        name, _, reference = text.partition(":")
    model = ModelName.parse(name)
    if at and not is_digest(digest):
        raise NameInvalid(f"{text[:200]!r} has a malformed digest.")
    await call.enter(model.project, "version.pull")
    repository = await catalog.repository(call.conn, str(model))
    if repository is None:
        raise NameUnknown(f"There is no model '{model}'.", hint="berth version ls shows what there is.")
    found = await chosen(
        call.conn,
        repository,
        digest if at else reference or "latest",
        admitted=lambda place, root: admitted(call, place, root),
    )
    if gated:  # by what was found, not by how it was asked for: a version can be written as its tag, too
        for one in found:
            await _may_leave(call, one)
    return found


async def _may_leave(call: Call, one: Chosen) -> None:
    verdict = await gates.verdict_of(call.conn, one.repository.id, one.version.digest, call.now)
    if verdict.admitted:
        return
    project = one.repository.project
    if not decide(call.actor, "quarantine.read", project).allowed:
        call.refused = True
        raise Denied(
            f"{one.name} is not admitted.",
            reasons=reasons_of(verdict),
            hint=f"xumi explain {one.name} shows what is missing.",
            digest=one.version.digest,
        )
    await audit.record(
        call.conn,
        actor=call.actor,
        action="quarantine.read",
        project=project,
        object=f"{one.repository.name}@{one.version.digest}",
    )
