"""How does an error leave the REST API? As RFC 9457 `application/problem+json`, always with a code and a next step.

`install` registers the renderers on a FastAPI app. What nobody expected is caught at the HTTP door
(`server/app.py`), which logs it and answers with `unexpected(error_id)`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from berth.errors import BerthError, InvalidInput, NotFound, TooLarge, Unauthenticated, Unsupported

MEDIA_TYPE: Final = "application/problem+json"
CHALLENGE: Final = 'Bearer realm="berth", Basic realm="berth", charset="UTF-8"'
_OWN_MEMBERS: Final = frozenset({"type", "title", "status", "detail", "instance", "code", "hint"})
_BY_STATUS: Final[Mapping[int, type[BerthError]]] = {
    400: InvalidInput,
    401: Unauthenticated,
    404: NotFound,
    405: Unsupported,
    413: TooLarge,
}


def problem_of(error: BerthError) -> dict[str, Any]:
    """The problem document of an error: its message as `detail`, its machine-readable facts as extra members."""
    document: dict[str, Any] = {
        "type": f"urn:berth:problem:{error.code}",
        "title": error.code.replace("_", " ").capitalize(),
        "status": error.status,
        "detail": error.message,
        "code": error.code,
        "hint": error.hint,
    }
    document.update((key, value) for key, value in error.detail.items() if key not in _OWN_MEMBERS)
    return document


def response_of(error: BerthError) -> Response:
    """The HTTP answer that tells of `error`."""
    headers: dict[str, str] = {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = CHALLENGE
    retry_after = error.detail.get("retry_after")
    if isinstance(retry_after, int) and error.status in (429, 503):
        headers["Retry-After"] = str(retry_after)
    return _render(problem_of(error), headers)


def unexpected(error_id: str) -> Response:
    """The answer to an error that nobody expected; `error_id` is what the log line carries."""
    return _render(
        {
            "type": "urn:berth:problem:internal",
            "title": "Internal error",
            "status": 500,
            "detail": "Something went wrong inside Berth.",
            "code": "internal",
            "hint": f"Tell the administrator this number: {error_id}. The log has the details.",
            "error_id": error_id,
        }
    )


def invalid_fields(errors: Sequence[Mapping[str, Any]]) -> Response:
    """The answer to a request whose body, path or query does not fit: 422 with one entry per wrong field.

    What the caller sent is not repeated: it may hold a secret.
    """
    fields = [{"field": _field(error.get("loc", ())), "message": str(error.get("msg", ""))} for error in errors]
    first = f"{fields[0]['field']}: {fields[0]['message']}" if fields else "The request is not valid."
    return _render(
        {
            "type": "urn:berth:problem:invalid_input",
            "title": "Invalid input",
            "status": 422,
            "detail": first if len(fields) < 2 else f"{first} (and {len(fields) - 1} more)",
            "code": "invalid_input",
            "hint": "Change the fields listed in `errors`; /docs shows what each request takes.",
            "errors": fields,
        }
    )


def install(app: FastAPI) -> None:
    """Make `app` answer every known error as a problem document."""
    app.add_exception_handler(BerthError, _on_berth_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_berth_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, BerthError):
        raise error
    return response_of(error)


async def _on_invalid_request(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return invalid_fields(error.errors())


async def _on_http_error(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: an unknown path, a wrong method, a body that is too large."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == HTTPStatus.NOT_FOUND:
        known: BerthError = NotFound("There is nothing at this address.", hint="/docs lists every address.")
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        known = Unsupported(f"{request.method} is not possible here.", hint="/docs lists what is.")
    else:
        kind = _BY_STATUS.get(error.status_code)
        if kind is None:
            return _render(
                {
                    "type": "about:blank",
                    "title": HTTPStatus(error.status_code).phrase,
                    "status": error.status_code,
                    "detail": str(error.detail),
                    "code": "invalid_input" if error.status_code < 500 else "internal",
                    "hint": None,
                },
                dict(error.headers or {}),
            )
        known = kind(str(error.detail))
    response = response_of(known)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


def _render(document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=str)
    return Response(
        # A lone surrogate in a name that somebody sent must not break the answer about it.
        content=body.encode("utf-8", "replace"),
        status_code=document["status"],
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})},
    )


def _field(location: Sequence[Any]) -> str:
    return ".".join(str(part) for part in location)[:200]
