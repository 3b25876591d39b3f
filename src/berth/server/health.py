"""Is this process up, and can it serve? /healthz never waits for anything; /readyz asks every part it needs.

Neither needs a sign-in: whoever balances load must read them. So they tell what is wrong only in general words.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from berth.db.migrate import HEAD
from berth.errors import BerthError, Unavailable
from berth.server.api.queries import answers, schema_revision
from berth.server.services import Services

log = logging.getLogger(__name__)
router = APIRouter(tags=["health"])
# A part that takes longer than this does not count as there.
_PATIENCE_SECONDS: Final = 5.0


class Check(BaseModel):
    name: Literal["database", "migrations", "depot"]
    ok: bool
    message: str


class Health(BaseModel):
    status: Literal["ok", "unavailable"]
    checks: list[Check]


@router.get("/healthz", operation_id="healthz", summary="Is this process up?")
async def healthz() -> Health:
    return Health(status="ok", checks=[])


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Can this process serve?",
    responses={503: {"model": Health, "description": "A part that is needed is not there."}},
)
async def readyz(request: Request, response: Response) -> Health:
    services: Services = request.app.state.services
    checks = [
        await _check("database", _database(services), "The database does not answer."),
        await _check("migrations", _migrations(services), "The database is not at the revision that this Berth needs."),
        await _check("depot", services.store.check(), "The depot cannot be written."),
    ]
    ready = all(check.ok for check in checks)
    response.status_code = 200 if ready else 503
    response.headers["Cache-Control"] = "no-store"
    return Health(status="ok" if ready else "unavailable", checks=checks)


async def _check(name: Literal["database", "migrations", "depot"], question: Awaitable[None], trouble: str) -> Check:
    try:
        await asyncio.wait_for(question, _PATIENCE_SECONDS)
    except (BerthError, OSError, TimeoutError) as error:
        log.warning("not ready: %s: %s", name, str(error) or type(error).__name__)
        return Check(name=name, ok=False, message=trouble)
    return Check(name=name, ok=True, message="")


async def _database(services: Services) -> None:
    async with services.db.reading() as conn:
        await answers(conn)


async def _migrations(services: Services) -> None:
    async with services.db.reading() as conn:
        revision = await schema_revision(conn)
    if revision != HEAD:
        raise Unavailable(f"The database is at revision {revision}, this Berth needs {HEAD}.")
