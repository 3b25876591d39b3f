"""How do registries say what went wrong? (distribution-spec "Error Codes".)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from berth.errors import BerthError, ManifestInvalid
from berth.oci.documents import dumps, loads

_MAX_ERRORS = 100
_MAX_TEXT = 2000


@dataclass(frozen=True, slots=True)
class WireError:
    """One entry of the `errors` list; `detail` is any JSON value or None."""

    code: str
    message: str = ""
    detail: Any = None

    @classmethod
    def of(cls, error: BerthError) -> WireError:
        """The entry for one of our errors: its OCI code, the message with its hint, its detail."""
        return cls(error.oci_code, str(error), error.detail or None)


def render(errors: Iterable[WireError | BerthError] | BerthError) -> bytes:
    """The JSON body of an error answer."""
    items = [errors] if isinstance(errors, BerthError) else list(errors)
    entries: list[dict[str, Any]] = []
    for item in items:
        error = WireError.of(item) if isinstance(item, BerthError) else item
        entry: dict[str, Any] = {"code": error.code, "message": error.message}
        if error.detail is not None:
            entry["detail"] = error.detail
        entries.append(entry)
    return dumps({"errors": entries}, sort_keys=False)


def parse(body: bytes) -> list[WireError]:
    """Read the body of an error answer; any body is allowed, what is not in the form gives an empty list."""
    try:
        value = loads(body, what="The error")
    except ManifestInvalid:
        return []
    items = value.get("errors") if isinstance(value, dict) else None
    if not isinstance(items, list):
        return []
    found: list[WireError] = []
    for item in items[:_MAX_ERRORS]:
        if isinstance(item, dict) and isinstance(item.get("code"), str):
            message = item.get("message")
            text = message[:_MAX_TEXT] if isinstance(message, str) else ""
            found.append(WireError(item["code"][:_MAX_TEXT], text, item.get("detail")))
    return found
