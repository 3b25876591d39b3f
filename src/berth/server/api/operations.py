"""What does a route declare about itself? Its action, name and errors; the action is what the door then asks for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import AfterValidator
from starlette.exceptions import HTTPException
from starlette.types import Message

from berth.access.roles import ACTIONS
from berth.errors import PaginationInvalid, SetupError
from berth.server.problems import MEDIA_TYPE

ACTION_KEY: Final = "x-berth-action"
MAX_BODY_BYTES: Final = 1024 * 1024
MAX_ID: Final = 2**63 - 1
PAGE: Final = 50
MAX_PAGE: Final = 500

_MEANINGS: Final[Mapping[int, str]] = {
    400: "What was sent is malformed.",
    401: "Nobody is signed in, or the credentials are not valid.",
    403: "You may see this, but not do it.",
    404: "There is no such thing, or you may not know of it.",
    409: "It conflicts with what is there.",
    422: "A field is missing or wrong; `errors` lists them.",
    503: "The database or the depot is not there right now.",
}
_ALWAYS: Final = (400, 401, 403, 404, 422, 503)


class BoundedRoute(APIRoute):
    """A route that stops reading a body after 1 MiB, whatever length was announced."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            held = 0

            async def receive() -> Message:
                nonlocal held
                message = await request.receive()
                held += len(message.get("body", b""))
                if held > MAX_BODY_BYTES:
                    raise HTTPException(413, f"A request's body has at most {MAX_BODY_BYTES} bytes here.")
                return message

            return await handle(Request(request.scope, receive))

        return bounded


def resource(tag: str) -> APIRouter:
    """The router of one resource."""
    return APIRouter(tags=[tag], route_class=BoundedRoute)


def operation(action: str, name: str, summary: str, *, conflict: bool = False) -> dict[str, Any]:
    """Keyword arguments for a route decorator.

    Args:
        action: member of `access.roles.ACTIONS` that a caller must hold; the door reads it back from the route.
        name: operation id in the OpenAPI document.
        conflict: whether the route can answer 409.
    """
    if action not in ACTIONS:
        raise SetupError(f"Route '{name}' asks for the unknown action '{action}'.")
    statuses = sorted((*_ALWAYS, 409)) if conflict else _ALWAYS
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "operation_id": name,
        "summary": summary,
        "openapi_extra": {ACTION_KEY: action},
        "responses": {status: {"description": _MEANINGS[status], "content": problem} for status in statuses},
    }


def action_of(request: Request) -> str:
    """The action that the route of this request declares.

    Raises:
        SetupError: it declares none, so nobody may use it.
    """
    extra = getattr(request.scope.get("route"), "openapi_extra", None) or {}
    action = extra.get(ACTION_KEY)
    if not isinstance(action, str):
        raise SetupError(f"The route {request.url.path} declares no action.")
    return action


def storable(value: Any) -> Any:
    """JSON that PostgreSQL can store: no NUL characters, no lone surrogates, not nested without end."""
    _check_storable(value, 0)
    return value


def after_id(after: str | None) -> int | None:
    """A cursor that is a row number.

    Raises:
        PaginationInvalid: it is not one of ours.
    """
    if after is None:
        return None
    if not (after.isascii() and after.isdigit() and len(after) < 20 and int(after) <= MAX_ID):
        raise PaginationInvalid("The cursor `after` is not one that a list answered.", hint="Start without `after`.")
    return int(after)


def _check_storable(value: Any, depth: int) -> None:
    if depth > 32:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("must not contain NUL characters")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("must be valid Unicode text") from None
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_storable(key, depth + 1)
            _check_storable(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_storable(item, depth + 1)


Text = Annotated[str, AfterValidator(storable)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many items at most.")]
After = Annotated[str | None, Query(max_length=300, description="`next` of the page before.")]
