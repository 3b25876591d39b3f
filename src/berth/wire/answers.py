"""What does a registry's error answer mean to us? (distribution-spec "Error Codes"; registries §1.)"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx

from berth.errors import (
    BerthError,
    BlobUnknown,
    BlobUnknownToManifest,
    Conflict,
    Denied,
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    NotFound,
    RangeInvalid,
    RemoteAuthError,
    RemoteError,
    SizeInvalid,
    StorageFull,
    TooLarge,
    TooManyRequests,
    Unavailable,
    Unsupported,
    UploadUnknown,
    VersionTaken,
)
from berth.oci import wire_errors
from berth.wire.messages import Answer
from berth.wire.retry import retry_after
from berth.wire.urls import Url

_BODY_LIMIT = 64 * 1024
# ENOSPC and EDQUOT.
_FULL = re.compile(rb'"Err":(28|122)\b|no space left on device|disk quota exceeded', re.IGNORECASE)

_BY_CODE: Mapping[str, type[BerthError]] = {
    "BLOB_UNKNOWN": BlobUnknown,
    "BLOB_UPLOAD_UNKNOWN": UploadUnknown,
    "DIGEST_INVALID": DigestInvalid,
    "MANIFEST_BLOB_UNKNOWN": BlobUnknownToManifest,
    "MANIFEST_INVALID": ManifestInvalid,
    "MANIFEST_UNKNOWN": ManifestUnknown,
    "NAME_INVALID": NameInvalid,
    "NAME_UNKNOWN": NameUnknown,
    "SIZE_INVALID": SizeInvalid,
    "RANGE_INVALID": RangeInvalid,
    "TAG_IMMUTABLE": VersionTaken,
    "TOOMANYREQUESTS": TooManyRequests,
}
_BY_STATUS: Mapping[int, type[BerthError]] = {
    401: RemoteAuthError,
    403: RemoteAuthError,
    404: NotFound,
    405: Unsupported,
    409: Conflict,
    412: Conflict,
    413: TooLarge,
    416: RangeInvalid,
    429: TooManyRequests,
    503: Unavailable,
    507: StorageFull,
}


async def error_of(response: Answer) -> BerthError:
    """Reads (a bounded part of) an unexpected answer and returns the error to raise for it."""
    body = bytearray()
    try:
        async for chunk in response.decoded():
            body += chunk
            if len(body) >= _BODY_LIMIT:
                break
    except (httpx.TransportError, httpx.DecodingError):
        pass  # the status alone must do
    return classify(response.method, response.url, response.status, response.headers, bytes(body[:_BODY_LIMIT]))


def classify(method: str, url: Url, status: int, headers: Mapping[str, str], body: bytes) -> BerthError:
    """The error that a status and an OCI error body stand for; any body is allowed."""
    errors = wire_errors.parse(body)
    first = errors[0] if errors else None
    where = f"{method} {url.shown}"
    said = f": {first.message}" if first and first.message else ""
    message = f"{url.host} answered {status}{' ' + first.code if first else ''} to {where}{said}"
    detail: dict[str, Any] = {"status": status, "codes": [e.code for e in errors]}
    wait = retry_after(headers.get("retry-after"))
    if wait is not None:
        detail["retry_after"] = wait
    if status == 403 and first is not None and isinstance(first.detail, dict):
        reasons = first.detail.get("reasons")
        if isinstance(reasons, list) and reasons:
            return _denied(first.message, [r for r in reasons if isinstance(r, dict)], first.detail)
    if first is not None and first.code == "PROJECTPOLICYVIOLATION":
        # Harbor's own gate: unsigned content, or findings over the project's limit.
        reasons = [{"code": "harbor.policy", "message": first.message}]
        return Denied(message, reasons=reasons, hint="Ask whoever looks after the project there.")
    kind = StorageFull if _is_full(status, body) else _BY_STATUS.get(status)
    if first is not None and 400 <= status < 500 and status not in (401, 403, 413):
        kind = _BY_CODE.get(first.code, kind)
    if kind is RemoteAuthError:
        hint = "Check the credentials and what they may do there." if status == 403 else "Log in, or check the token."
        return RemoteAuthError(message, hint=hint, detail=detail)
    if kind is StorageFull:
        hint = "Free some space there, then run it again: what has arrived is not sent again."
        return StorageFull(f"{url.host} has no space left: {message}", hint=hint, detail=detail)
    if kind is None:
        kind = RemoteError
    return kind(message, detail=detail)


def _is_full(status: int, body: bytes) -> bool:
    """Distribution answers a full disk with 500 and the error of its storage: a number (Linux's) or its words."""
    return status == 500 and _FULL.search(body) is not None


def _denied(message: str, reasons: list[dict[str, Any]], detail: Mapping[str, Any]) -> Denied:
    # Berth repeats the reasons in the message, for clients that show nothing else.
    start = message.find(f"[{reasons[0].get('code')}]") if reasons else -1
    text = message[:start] if start > 0 else message
    hint, digest = detail.get("hint"), detail.get("digest")
    if isinstance(hint, str):
        text = text.replace(hint, "")
    return Denied(
        text.strip() or "The version is not admitted.",
        reasons=reasons,
        hint=hint if isinstance(hint, str) else None,
        digest=digest if isinstance(digest, str) else None,
    )


def transport_failure(error: httpx.TransportError, url: Url) -> BerthError:
    """What to raise when nobody answered, or stopped half-way, for the last time."""
    if isinstance(error, httpx.UnsupportedProtocol):
        return RemoteError(f"{url.shown} is not an address we can use: {error}.")
    return Unavailable(
        f"No usable answer from {url.host}: {error or type(error).__name__}.",
        hint="Is it running and reachable from here?",
        detail={"url": url.shown},
    )
