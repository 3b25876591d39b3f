"""The HTTP door: one ASGI application in which `/v2` goes to the gateway and everything else to the REST API.

This is one of the three places that catch every exception: what is not a BerthError is logged with an id and
answered with 500; the id is all that leaves the house.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from fastapi import FastAPI

from berth import __version__
from berth.errors import BerthError
from berth.oci import wire_errors
from berth.oci.wire_errors import WireError
from berth.server import api, health, hooks, metrics, problems
from berth.server.gateway.app import Gateway
from berth.server.services import Services

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger(__name__)


def create_app(services: Services, *, on_shutdown: Callable[[], Awaitable[None]]) -> ASGIApp:
    """Build the application. `on_shutdown` closes what `wiring` opened, after the last request."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await on_shutdown()

    rest = FastAPI(
        title="Berth",
        summary="The registry for machine-learning models.",
        version=__version__,
        docs_url="/docs",
        redoc_url=None,
        openapi_url="/openapi.json",
        lifespan=lifespan,
    )
    rest.state.services = services
    api.include_all(rest)
    rest.include_router(health.router)
    rest.include_router(metrics.router)
    rest.include_router(hooks.router)
    problems.install(rest)
    return Door(gateway=Gateway(services), rest=rest)


class Door:
    """Routes by path, counts, and turns the unexpected into a 500 that names an id."""

    def __init__(self, *, gateway: ASGIApp, rest: ASGIApp) -> None:
        self._gateway = gateway
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        path: str = scope["path"]
        part = "gateway" if path == "/v2" or path.startswith("/v2/") else "rest"
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with metrics.in_flight(part):
            try:
                await (self._gateway if part == "gateway" else self._rest)(scope, receive, counted)
            except Exception as error:
                if isinstance(error, BerthError) and status:
                    log.warning("answer_broken_off", path=path, error=error.code, message=error.message)
                    raise
                await self._unexpected(scope, receive, send, error, started=bool(status), part=part)
                status = status or 500
            finally:
                metrics.count_request(part, scope["method"], status)

    async def _unexpected(
        self, scope: Scope, receive: Receive, send: Send, error: Exception, *, started: bool, part: str
    ) -> None:
        reference = secrets.token_hex(8)
        log.error("unexpected_error", id=reference, path=scope["path"], method=scope["method"], exc_info=error)
        if started:
            raise error  # the answer has begun: break the connection rather than end it as if it were whole
        if part == "rest":
            await problems.unexpected(reference)(scope, receive, send)
            return
        body = wire_errors.render(
            [WireError("UNKNOWN", f"Berth failed unexpectedly; its log has the details under {reference}.")]
        )
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 500, "headers": headers})
        await send({"type": "http.response.body", "body": body})
