"""What do other registries tell us? `POST /hooks/NAME` takes the webhook of a registry; a job does what follows.

Who sends is checked before a byte of the body is read, or, where the body is signed, before anything in it is looked
at. Registries that are not known, that have no hook, or whose secret is wrong get one answer.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import structlog
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from berth import telemetry
from berth.access.hooks import Proof, is_authentic
from berth.adapters.registries.contract import Delivery, RegistrySettings
from berth.db import registries as stored
from berth.db.sealing import sealer
from berth.errors import InvalidInput, SetupError, Unauthenticated
from berth.server.services import Services
from berth.sync.events.arrive import arrive

router = APIRouter(tags=["hooks"])
PREFIX: Final = "/hooks"
MAX_BODY_BYTES: Final = 1024 * 1024
log = structlog.get_logger(__name__)


class Taken(BaseModel):
    """How many events of the delivery were new, known already, or about repositories that are none of ours."""

    new: int
    repeated: int
    foreign: int


@router.post(
    PREFIX + "/{name}",
    status_code=202,
    operation_id="takeRegistryEvents",
    summary="Take the webhook of a registry",
    responses={401: {"description": "It does not carry the secret of a registry's hook."}},
)
async def take(request: Request, name: str) -> Taken:
    """`berth registry hook NAME` makes the secret, and says how it is sent: as `Authorization`, as `?token=`, or as the
    key of `X-Hub-Signature-256`."""
    services: Services = request.app.state.services
    counted = telemetry.metrics().registry_events
    async with services.db.reading() as conn:
        row = None if "\0" in name else await stored.registry_named(conn, name)
    signature = request.headers.get("x-hub-signature-256")
    signed = await _body(request) if signature is not None else b""
    proof = Proof(request.headers.get("authorization"), request.query_params.get("token"), signature, signed)
    if not is_authentic(row, proof, partial(sealer, services.settings)) or row is None:
        counted.labels("refused").inc()
        raise Unauthenticated("This delivery does not carry the secret of a hook.", hint="berth registry hook NAME")
    if services.registries is None:
        raise SetupError("This server was started without registries.")
    delivery = Delivery(signed if signature is not None else await _body(request), dict(request.headers))
    known = RegistrySettings(row.name, row.kind, row.url, options=row.options)
    try:
        events = services.registries.events(known, delivery)
    except InvalidInput:
        counted.labels("unreadable").inc()
        raise
    async with services.db.transaction() as conn:
        arrived = await arrive(conn, row.id, events, now=services.clock())
    taken = Taken(new=arrived.new, repeated=arrived.repeated, foreign=arrived.foreign)
    for outcome, count in taken.model_dump().items():
        counted.labels(outcome).inc(count)
    log.debug("registry_told", registry=row.name, **taken.model_dump())
    return taken


async def _body(request: Request) -> bytes:
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) > MAX_BODY_BYTES:
            raise HTTPException(413, f"A delivery has at most {MAX_BODY_BYTES} bytes here.")
    return bytes(held)
