"""Which error did the service answer with? Turns problem+json (RFC 9457) back into a member of `berth.errors`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from berth.errors import (
    BerthError,
    Conflict,
    Denied,
    Forbidden,
    InvalidInput,
    NotFound,
    RemoteError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)

_BY_STATUS: Mapping[int, type[BerthError]] = {
    400: InvalidInput,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: InvalidInput,
    429: TooManyRequests,
    503: Unavailable,
}
_LOGIN_HINT = "Log in with `xumi login URL`, or set BERTH_TOKEN."
_STANDARD_MEMBERS = ("type", "title", "status", "instance", "code", "hint", "reasons", "digest")


def from_response(response: httpx.Response) -> BerthError:
    """The error an answer of status 400 or above stands for; its body must have been read.

    Bodies that are not a problem document (a proxy's page, say) give the class of the status.
    """
    try:
        body = json.loads(response.content)
    except (ValueError, UnicodeDecodeError):
        body = None
    if not isinstance(body, dict):
        body = {}
    status = response.status_code
    kind = _classes().get(str(body.get("code"))) or _BY_STATUS.get(status, RemoteError)
    detail = body.get("detail")
    message = detail if isinstance(detail, str) and detail else body.get("title")
    if not isinstance(message, str) or not message:
        message = f"The service answered {status} {response.reason_phrase} to {response.request.method} " + str(
            response.request.url.copy_with(query=None)
        )
    hint = body.get("hint") if isinstance(body.get("hint"), str) else None
    if issubclass(kind, Denied):
        return kind(message, reasons=_reasons(body), hint=hint, digest=_digest(body))
    if issubclass(kind, Unauthenticated):
        hint = _LOGIN_HINT  # the service's own hint is for programs that speak HTTP
    facts: dict[str, Any] = {k: v for k, v in body.items() if k not in _STANDARD_MEMBERS and k != "detail"}
    facts["status"] = status
    return kind(message, hint=hint, detail=facts)


def _reasons(body: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    for place in (body, body.get("detail"), body.get("facts")):
        if isinstance(place, dict) and isinstance(place.get("reasons"), list):
            return [r for r in place["reasons"] if isinstance(r, dict)]
    return []


def _digest(body: Mapping[str, Any]) -> str | None:
    value = body.get("digest")
    return value if isinstance(value, str) else None


def _classes() -> dict[str, type[BerthError]]:
    return {c.code: c for c in _family(BerthError)}


def _family(root: type[BerthError]) -> Iterator[type[BerthError]]:
    yield root
    for child in root.__subclasses__():
        yield from _family(child)
