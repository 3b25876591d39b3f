"""…/models: what a project holds, and the editable words about each model."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import Request
from pydantic import BaseModel, Field

from berth.access import audit
from berth.catalog import lookup
from berth.catalog.queries import RepositoryRow
from berth.server.api import queries
from berth.server.api.addressed import admitted
from berth.server.api.calls import Call, acting
from berth.server.api.operations import PAGE, After, Limit, operation, resource
from berth.server.api.overlays import Overlay, merged

router = resource("models")
_MODEL = "/projects/{project}/models/{model}"


class ModelItem(BaseModel):
    """A model in a list. `newest_version` is the latest arrival, admitted or not."""

    name: str = Field(examples=["vision/detector"])
    kind: str | None = Field(description="model or checkpoint; null until the first version.")
    description: str
    newest_version: str | None
    newest_number: int | None
    newest_at: datetime | None
    created_at: datetime


class ModelPage(BaseModel):
    items: list[ModelItem]
    next: str | None


class Model(BaseModel):
    """A model. `latest` is the highest admitted release, which `latest` means for every reader."""

    name: str
    kind: str | None
    overlay: dict[str, Any]
    latest: str | None
    latest_digest: str | None
    versions: int
    created_at: datetime


@router.get("/projects/{project}/models", **operation("model.read", "listModels", "List a project's models"))
async def index(request: Request, project: str, limit: Limit = PAGE, after: After = None) -> ModelPage:
    async with acting(request) as call:
        prefix = f"{call.project.name}/"
        rows = await queries.list_models(
            call.conn, call.project.id, after=None if after is None else prefix + after, limit=limit
        )
        items = [
            ModelItem(
                name=row.name,
                kind=row.kind,
                description=str(row.overlay.get("description", "")),
                newest_version=row.newest_version,
                newest_number=row.newest_number,
                newest_at=row.newest_at,
                created_at=row.created_at,
            )
            for row in rows
        ]
        return ModelPage(items=items, next=rows[-1].name.removeprefix(prefix) if len(rows) == limit else None)


@router.get(_MODEL, **operation("model.read", "getModel", "Show a model"))
async def show(request: Request, project: str, model: str) -> Model:
    async with acting(request) as call:
        repository = await call.repository()
        overlay, created_at = await queries.model_overlay(call.conn, repository.id)
        return await _shown(call, repository, dict(overlay), created_at)


@router.patch(_MODEL, **operation("model.edit", "changeModel", "Edit description, labels and links"))
async def change(request: Request, project: str, model: str, body: Overlay) -> Model:
    async with acting(request) as call:
        repository = await call.repository()
        before, created_at = await queries.model_overlay(call.conn, repository.id, lock=True)
        after = merged(before, body)
        if after != before:
            await queries.set_model_overlay(call.conn, repository.id, after)
            await audit.record(
                call.conn,
                actor=call.actor,
                action="model.edit",
                project=call.project.name,
                object=repository.name,
                detail={"before": dict(before), "after": after},
            )
        return await _shown(call, repository, after, created_at)


async def _shown(call: Call, repository: RepositoryRow, overlay: dict[str, Any], created_at: datetime) -> Model:
    latest = await lookup.resolve_version(
        call.conn, repository.id, "latest", admitted=lambda place, digest: admitted(call, place, digest)
    )
    return Model(
        name=repository.name,
        kind=repository.kind,
        overlay=overlay,
        latest=None if latest is None else latest.version,
        latest_digest=None if latest is None else latest.digest,
        versions=await queries.count_versions(call.conn, repository.id),
        created_at=created_at,
    )
