"""The gateway as an ASGI application: path → handler, and every refusal in the distribution spec's own form."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import unquote

from berth.errors import BerthError, InvalidInput, NameInvalid, NameUnknown
from berth.oci import reference
from berth.server.gateway import HANDLERS
from berth.server.gateway.answers import render_error
from berth.server.gateway.exchange import Exchange, SenderGone
from berth.server.services import Services

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

Handler = Callable[[Exchange], Awaitable[None]]

_ROUTES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("base", re.compile(r"/v2/?")),
    ("catalog", re.compile(r"/v2/_catalog")),
    ("token", re.compile(r"/v2/token")),
    ("uploads", re.compile(r"/v2/(?P<name>.+)/blobs/uploads/?")),
    ("upload", re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<upload>[A-Za-z0-9_-]{1,64})")),
    ("blob", re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)")),
    ("manifest", re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")),
    ("tags", re.compile(r"/v2/(?P<name>.+)/tags/list")),
    ("referrers", re.compile(r"/v2/(?P<name>.+)/referrers/(?P<digest>[^/]+)")),
)


class Gateway:
    """ASGI application for everything under `/v2`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._handlers: dict[str, Handler] = {}
        for route, dotted in HANDLERS.items():
            module, _, function = dotted.partition(":")
            self._handlers[route] = getattr(import_module(module), function)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self._services)
        try:
            await self._dispatch(exchange)
        except SenderGone:
            return  # nobody is there to be answered; what was acknowledged stays acknowledged
        except BerthError as error:
            if exchange.started:
                raise  # a broken stream must end as a broken connection, never as a short but valid answer
            await render_error(exchange, error)

    async def _dispatch(self, exchange: Exchange) -> None:
        if "\0" in exchange.path or any("\0" in value for _, value in exchange.query):
            raise InvalidInput("The request holds a NUL character.")
        for route, pattern in _ROUTES:
            match = pattern.fullmatch(exchange.path)
            if match is None:
                continue
            exchange.route = {key: unquote(value) for key, value in match.groupdict().items()}
            if "name" in exchange.route:
                reference.check_repository(exchange.route["name"])
                if exchange.route["name"].count("/") != 1:
                    raise NameInvalid(
                        f"'{exchange.route['name']}' is not project/name.",
                        hint="A repository has exactly two parts: the project and the model.",
                    )
            await self._handlers[route](exchange)
            return
        raise NameUnknown(f"There is nothing at {exchange.path}.")
