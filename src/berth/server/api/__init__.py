"""The REST API, `/api/v1`: one file per resource, one line in `RESOURCES` for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, FastAPI

from berth.server.api import addressed as addressed
from berth.server.api import (
    aliases,
    approvals,
    archives,
    audit,
    drift,
    evidence,
    fitting,
    imports,
    keys,
    members,
    models,
    placements,
    places,
    projects,
    promotions,
    registries,
    registry_care,
    registry_events,
    registry_projects,
    sync,
    tokens,
    users,
    verdicts,
    versions,
    whoami,
)
from berth.server.api import calls as calls
from berth.server.api import openapi as openapi
from berth.server.api import operations as operations
from berth.server.api import overlays as overlays
from berth.server.api import queries as queries

PREFIX: Final = "/api/v1"
RESOURCES: Final[tuple[APIRouter, ...]] = (
    whoami.router,
    projects.router,
    members.router,
    keys.router,
    users.router,
    tokens.router,
    models.router,
    fitting.router,
    versions.router,
    verdicts.router,
    evidence.router,
    approvals.router,
    aliases.router,
    placements.router,
    sync.router,
    drift.router,
    archives.router,
    promotions.router,
    imports.router,
    places.router,
    audit.router,
    registries.router,
    registry_events.router,
    registry_care.router,
    registry_projects.router,
)


def include_all(app: FastAPI) -> None:
    """Put every resource on `app`, below /api/v1, and complete its OpenAPI document."""
    for router in RESOURCES:
        app.include_router(router, prefix=PREFIX)
    plain: Callable[[], dict[str, Any]] = app.openapi

    def complete() -> dict[str, Any]:
        return openapi.completed(plain())

    app.openapi = complete  # type: ignore[method-assign]
