"""…/aliases: movable names such as `production`, their history, and one step back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from berth.access import audit
from berth.catalog import aliases as catalog_aliases
from berth.catalog import queries as catalog_queries
from berth.catalog.queries import RepositoryRow
from berth.errors import NotFound
from berth.server.api import queries
from berth.server.api.addressed import Addressed, addressed, require_admitted
from berth.server.api.calls import Call, acting
from berth.server.api.operations import PAGE, After, Limit, Text, after_id, operation, resource

router = resource("aliases")
_ALIASES = "/projects/{project}/models/{model}/aliases"


class Alias(BaseModel):
    alias: str = Field(examples=["production"])
    version: str
    digest: str
    moved_at: datetime
    moved_by: str


class AliasPage(BaseModel):
    items: list[Alias]
    next: str | None


class Target(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Text = Field(max_length=300, description="Version, digest, another alias or a range.", examples=["1.2.0"])
    reason: Text = Field("", max_length=2000)


class AliasMove(BaseModel):
    """From `moved_at` on the alias meant `version`; null: it was removed."""

    version: str | None
    digest: str | None
    moved_at: datetime
    moved_by: str
    reason: str


class AliasMovePage(BaseModel):
    items: list[AliasMove]
    next: str | None


@router.get(_ALIASES, **operation("model.read", "listAliases", "List a model's aliases"))
async def index(request: Request, project: str, model: str, limit: Limit = PAGE, after: After = None) -> AliasPage:
    async with acting(request) as call:
        repository = await call.repository()
        rows = await queries.list_aliases(call.conn, repository.id, after=after, limit=limit)
        items = [
            Alias(alias=row.name, version=row.version, digest=row.digest, moved_at=row.moved_at, moved_by=row.moved_by)
            for row in rows
        ]
        return AliasPage(items=items, next=rows[-1].name if len(rows) == limit else None)


@router.put(_ALIASES + "/{alias}", **operation("alias.move", "setAlias", "Point an alias at a version", conflict=True))
async def put(request: Request, project: str, model: str, alias: str, body: Target) -> Alias:
    """The version must be admitted: an alias on anything else would resolve to nothing."""
    async with acting(request) as call:
        place = await addressed(call, body.version)
        await require_admitted(call, place)
        await catalog_aliases.set_alias(
            call.conn,
            repository_id=place.repository.id,
            name=alias,
            version_id=place.version.id,
            by=call.who,
            reason=body.reason,
        )
        await _record(call, place.repository, alias, {"version": place.version.version, "reason": body.reason})
        return await _one(call, place.repository, alias)


@router.delete(_ALIASES + "/{alias}", status_code=204, **operation("alias.move", "removeAlias", "Remove an alias"))
async def remove(request: Request, project: str, model: str, alias: str) -> Response:
    async with acting(request) as call:
        repository = await call.repository()
        await catalog_aliases.remove_alias(call.conn, repository_id=repository.id, name=alias, by=call.who)
        await _record(call, repository, alias, {"version": None})
    return Response(status_code=204)


@router.get(
    _ALIASES + "/{alias}/history", **operation("model.read", "aliasHistory", "Where an alias pointed, newest first")
)
async def history(
    request: Request,
    project: str,
    model: str,
    alias: str,
    at: Annotated[datetime | None, Query(description="Only what the alias meant at this instant (ISO 8601).")] = None,
    limit: Limit = PAGE,
    after: After = None,
) -> AliasMovePage:
    """With `at`, one item: the move that held then; none if the alias did not exist."""
    async with acting(request) as call:
        repository = await call.repository()
        if at is not None:
            instant = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
            rows = await queries.list_alias_moves(call.conn, repository.id, alias, at=instant, after=None, limit=1)
            rows = [row for row in rows if row.version is not None]
        else:
            rows = await queries.list_alias_moves(
                call.conn, repository.id, alias, at=None, after=after_id(after), limit=limit
            )
        items = [
            AliasMove(
                version=row.version,
                digest=row.digest,
                moved_at=row.moved_at,
                moved_by=row.moved_by,
                reason=row.reason,
            )
            for row in rows
        ]
        return AliasMovePage(items=items, next=str(rows[-1].id) if at is None and len(rows) == limit else None)


@router.post(
    _ALIASES + "/{alias}/rollback",
    **operation("alias.move", "rollbackAlias", "Point an alias where it was before its last move", conflict=True),
)
async def rollback(request: Request, project: str, model: str, alias: str) -> Alias:
    """Refused when the version before is no longer admitted."""
    async with acting(request) as call:
        repository = await call.repository()
        version_id = await catalog_aliases.rollback_alias(
            call.conn, repository_id=repository.id, name=alias, by=call.who
        )
        version = await catalog_queries.version_by_id(call.conn, version_id)
        if version is None:
            raise NotFound(f"Alias '{alias}' has no earlier version.")
        await require_admitted(call, Addressed(repository, version))
        await _record(call, repository, alias, {"version": version.version, "reason": "rollback"})
        return await _one(call, repository, alias)


async def _one(call: Call, repository: RepositoryRow, name: str) -> Alias:
    row = await queries.alias_item(call.conn, repository.id, name)
    if row is None:
        raise NotFound(f"There is no alias '{name}' in {repository.name}.")
    return Alias(alias=row.name, version=row.version, digest=row.digest, moved_at=row.moved_at, moved_by=row.moved_by)


async def _record(call: Call, repository: RepositoryRow, alias: str, detail: dict[str, str | None]) -> None:
    await audit.record(
        call.conn,
        actor=call.actor,
        action="alias.move",
        project=call.project.name,
        object=f"{repository.name}:{alias}",
        detail=detail,
    )
