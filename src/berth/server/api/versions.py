"""…/versions: what arrived, under which number and digest, and what the gate says about it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from berth.access import audit
from berth.catalog import queries as catalog_queries
from berth.catalog import removal
from berth.server.api import queries
from berth.server.api.addressed import Addressed, addressed, admitted
from berth.server.api.calls import Call, acting
from berth.server.api.operations import PAGE, After, Limit, after_id, operation, resource
from berth.server.api.overlays import Overlay, merged
from berth.sync import queries as sync_queries

router = resource("versions")
_VERSIONS = "/projects/{project}/models/{model}/versions"
_VERSION = _VERSIONS + "/{ref}"


class VersionItem(BaseModel):
    """A version. `declared` is inside the digest and immutable; `overlay` is what people wrote about it since."""

    model: str = Field(examples=["vision/detector"])
    version: str = Field(examples=["1.2.0"])
    digest: str
    number: int = Field(description="1, 2, 3 … in order of arrival.")
    state: str
    approval: str
    deprecated: bool
    verdict: Literal["allow", "deny"]
    declared: dict[str, Any]
    overlay: dict[str, Any]
    pushed_by: str
    created_at: datetime


class VersionEntry(VersionItem):
    """A version in a list."""

    evidence: list[str] | None = Field(
        description="Digests of the signatures and reports that may leave with it; null unless asked for."
    )


class VersionPage(BaseModel):
    items: list[VersionEntry]
    next: str | None


class Version(VersionItem):
    """A version in full. `size` counts the bytes of all its blobs once."""

    kind: str | None
    media_type: str
    size: int
    aliases: list[str]


class VersionChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    deprecated: bool | None = Field(None, description="Deprecated versions are not meant by `latest` and ranges.")
    overlay: Overlay | None = None


@router.get(_VERSIONS, **operation("model.read", "listVersions", "List a model's versions, highest first"))
async def index(
    request: Request,
    project: str,
    model: str,
    deleted: Annotated[bool, Query(description="Also those that were deleted.")] = False,
    evidence: Annotated[bool, Query(description="Also the digests of what says something about each.")] = False,
    limit: Limit = PAGE,
    after: After = None,
) -> VersionPage:
    async with acting(request) as call:
        repository = await call.repository()
        rows = await queries.list_versions(
            call.conn, repository.id, now=call.now, after=after_id(after), limit=limit, deleted=deleted
        )
        about = {}
        if evidence:
            about = await sync_queries.depot_evidence(call.conn, project, repository=repository.name, now=call.now)
        items = []
        for row in rows:
            let_out = row.admitted
            if let_out is None:
                let_out = row.state != "deleted" and await admitted(call, repository.id, row.digest)
            items.append(
                VersionEntry(
                    model=repository.name,
                    version=row.version,
                    digest=row.digest,
                    number=row.number,
                    state=row.state,
                    approval=row.approval,
                    deprecated=row.deprecated,
                    verdict="allow" if let_out and row.state != "deleted" else "deny",
                    declared=dict(row.declared),
                    overlay=dict(row.overlay),
                    pushed_by=row.pushed_by,
                    created_at=row.created_at,
                    evidence=sorted(about.get((repository.name, row.digest), ())) if evidence else None,
                )
            )
        return VersionPage(items=items, next=str(rows[-1].number) if len(rows) == limit else None)


@router.get(_VERSION, **operation("model.read", "getVersion", "Show a version"))
async def show(request: Request, project: str, model: str, ref: str) -> Version:
    """`ref` is a semantic version, a digest, an alias, `latest` or a range such as `^1.2`."""
    async with acting(request) as call:
        return await _shown(call, await addressed(call, ref))


@router.patch(_VERSION, **operation("model.edit", "changeVersion", "Deprecate a version, or edit words about it"))
async def change(request: Request, project: str, model: str, ref: str, body: VersionChange) -> Version:
    """Changing `deprecated` changes what `latest` and ranges mean, so it takes the right to edit versions."""
    async with acting(request) as call:
        if body.deprecated is not None:
            call.require("version.edit")
        repository = await call.repository()
        await catalog_queries.lock_repository(call.conn, repository.id)
        place = await addressed(call, ref, exact=True)
        version = place.version
        if body.deprecated is not None and body.deprecated != version.deprecated:
            await catalog_queries.set_version(call.conn, version.id, deprecated=body.deprecated)
            await _record(call, "version.edit", place, {"deprecated": body.deprecated})
        if body.overlay is not None:
            after = merged(version.overlay, body.overlay)
            if after != version.overlay:
                await catalog_queries.set_version(call.conn, version.id, overlay=after)
                await _record(call, "model.edit", place, {"before": version.overlay, "after": after})
        return await _shown(call, await addressed(call, ref))


@router.delete(
    _VERSION, status_code=204, **operation("version.delete", "deleteVersion", "Delete a version", conflict=True)
)
async def remove(request: Request, project: str, model: str, ref: str) -> Response:
    """Its number stays taken for ever; its bytes go after the grace period."""
    async with acting(request) as call:
        place = await addressed(call, ref, exact=True)
        await removal.delete_version(call.conn, place.version.id, call.who)
        await _record(call, "version.delete", place, {"digest": place.version.digest})
    return Response(status_code=204)


async def _record(call: Call, action: str, place: Addressed, detail: dict[str, Any]) -> None:
    await audit.record(
        call.conn, actor=call.actor, action=action, project=call.project.name, object=place.name, detail=detail
    )


async def _shown(call: Call, place: Addressed) -> Version:
    version = place.version
    media_type, size = await queries.media_type_and_size(call.conn, place.repository.id, version.digest)
    return Version(
        model=place.repository.name,
        kind=place.repository.kind,
        version=version.version,
        digest=version.digest,
        number=version.number,
        state=version.state,
        approval=version.approval,
        deprecated=version.deprecated,
        verdict="allow" if await admitted(call, place.repository.id, version.digest) else "deny",
        declared=version.declared,
        overlay=version.overlay,
        pushed_by=version.pushed_by,
        created_at=version.created_at,
        media_type=media_type,
        size=size,
        aliases=await catalog_queries.aliases_of_version(call.conn, version.id),
    )
