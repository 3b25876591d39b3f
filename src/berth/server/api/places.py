"""/…/versions/{ref}/where: where are a version's bytes, and which registry is asked for those that are not here?"""

from __future__ import annotations

from typing import Literal

from fastapi import Request
from pydantic import BaseModel

from berth.server.api.addressed import addressed
from berth.server.api.calls import acting
from berth.server.api.operations import operation, resource
from berth.sync.cache import queries as cache
from berth.sync.publishing import queries as placing

router = resource("sync")
# What may be asked for bytes, as the gateway does.
ASKED = ("published", "exposed", "failed")


class DepotShare(BaseModel):
    """How much of a version the depot holds; the rest comes from a registry when it is read.

    `cached`: the depot holds it, and could let go of it again since a registry has it too.
    """

    state: Literal["depot", "cached", "partly", "remote"]
    blobs: int
    bytes: int
    blobs_here: int
    bytes_here: int


class CopyPlace(BaseModel):
    """A registry that holds (or is to hold) a version, as the server that answers has come to know it.

    `found`: it was there before it was known here. `retry_in`: seconds that it is left alone after failures.
    """

    registry: str
    repository: str
    state: Literal["pending", "published", "failed", "withdrawn", "exposed"]
    found: bool
    healthy: bool
    trusted: bool
    retry_in: float
    latency_ms: float | None
    reason: str | None


class WhereItIs(BaseModel):
    """`next`: the registry that would be asked first for bytes that are not in the depot."""

    depot: DepotShare
    registries: list[CopyPlace]
    next: str | None


@router.get(
    "/projects/{project}/models/{model}/versions/{ref}/where",
    **operation("model.read", "whereIsVersion", "Where the bytes of a version are"),
)
async def show(request: Request, project: str, model: str, ref: str) -> WhereItIs:
    async with acting(request) as call:
        place = await addressed(call, ref)
        spread = await cache.spread_of(call.conn, place.repository.id, place.version.digest)
        rows = await placing.placements_of_version(call.conn, place.version.id)
        health = call.services.cache.health
    places = []
    for row in rows:
        state = health.state(row.registry)
        places.append(
            CopyPlace(
                registry=row.registry,
                repository=row.repository,
                state=row.state,  # type: ignore[arg-type]
                found=row.found,
                healthy=state.healthy,
                trusted=state.trusted,
                retry_in=round(state.retry_seconds, 1),
                latency_ms=None if state.latency_ms is None else round(state.latency_ms, 1),
                reason=state.reason,
            )
        )
    asked = health.order(p.registry for p in places if p.state in ASKED)
    elsewhere = any(p.state == "published" for p in places)
    return WhereItIs(
        depot=DepotShare(state=_state(spread, elsewhere=elsewhere), **vars(spread)),
        registries=places,
        next=next((name for name in asked if health.state(name).healthy), None),
    )


def _state(spread: cache.Spread, *, elsewhere: bool) -> Literal["depot", "cached", "partly", "remote"]:
    if spread.blobs_here == spread.blobs:
        return "cached" if elsewhere else "depot"
    return "partly" if spread.blobs_here else "remote"
