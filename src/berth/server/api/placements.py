"""/…/placements: where a version lives besides the depot, how far a copy there is, and stopping one."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from berth.access import audit
from berth.db import queue
from berth.errors import NotFound
from berth.server.api.addressed import addressed
from berth.server.api.calls import Call, acting
from berth.server.api.operations import Text, operation, resource
from berth.sync.publishing import queries

router = resource("sync")
_PATH = "/projects/{project}/models/{model}/versions/{ref}/placements"


class VersionPlacement(BaseModel):
    """Where a version lives besides the depot. `exposed`: it is denied here, but can still be had there."""

    registry: str
    repository: str
    state: Literal["pending", "published", "failed", "withdrawn", "exposed"]
    error: str | None
    bytes: int = Field(description="Sent there, in all tries.")
    at: datetime
    started_at: datetime | None = Field(description="When the present or last try began.")
    blobs_done: int = Field(description="Of the present or last try: blobs that are whole there.")
    blobs_total: int
    bytes_done: int = Field(description="Bytes of them, with those on the way.")
    bytes_total: int
    attempts: int = Field(description="Failures in a row.")
    next_try_at: datetime | None = Field(description="When a failed one is tried again.")
    held: bool = Field(description="Somebody stopped it; releasing it goes on.")


class VersionPlacements(BaseModel):
    items: list[VersionPlacement]
    next: str | None = None


class Hold(BaseModel):
    model_config = ConfigDict(extra="forbid")

    registry: Text | None = Field(None, max_length=128, description="Only there; left out: everywhere.")


@router.get(_PATH, **operation("model.read", "listPlacements", "Where a version lives besides the depot"))
async def index(request: Request, project: str, model: str, ref: str) -> VersionPlacements:
    async with acting(request) as call:
        return await _placements(call, (await addressed(call, ref)).version.id)


@router.post(f"{_PATH}/hold", **operation("project.configure", "holdPlacements", "Stop publishing a version"))
async def hold(request: Request, project: str, model: str, ref: str, body: Hold) -> VersionPlacements:
    """A copy that is under way stops within seconds. What has arrived stays, without its tag, and is not sent again."""
    async with acting(request) as call:
        place = await addressed(call, ref)
        await _turn(call, f"{project}/{model}:{ref}", place.version.id, body.registry, held=True)
        return await _placements(call, place.version.id)


@router.post(f"{_PATH}/release", **operation("project.configure", "releasePlacements", "Go on publishing a version"))
async def release(request: Request, project: str, model: str, ref: str, body: Hold) -> VersionPlacements:
    """What a hold stopped goes on at once."""
    async with acting(request) as call:
        place = await addressed(call, ref)
        await _turn(call, f"{project}/{model}:{ref}", place.version.id, body.registry, held=False)
        await queue.follow(call.conn, place.repository.id, place.version.digest, admitted=True, forward=True)
        return await _placements(call, place.version.id)


async def _turn(call: Call, name: str, version: int, registry: str | None, *, held: bool) -> None:
    error = f"Stopped by {call.who}; berth sync release {name} goes on." if held else None
    if not await queries.hold(call.conn, version, registry=registry, held=held, error=error):
        where = f" at {registry}" if registry else ""
        raise NotFound(
            f"Nothing of {name}{where} {'is on its way' if held else 'is held'}.", hint=f"xumi where {name} shows it."
        )
    detail = {"held": held, "registry": registry}
    await audit.record(
        call.conn, actor=call.actor, action="project.configure", project=call.project.name, object=name, detail=detail
    )


async def _placements(call: Call, version: int) -> VersionPlacements:
    rows = [asdict(row) for row in await queries.placements_of_version(call.conn, version)]
    fields = VersionPlacement.model_fields
    return VersionPlacements(items=[VersionPlacement(**{name: row[name] for name in fields}) for row in rows])
