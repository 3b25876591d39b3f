"""What does the OpenAPI document say beyond the routes? How to sign in, and what a problem looks like (RFC 9457)."""

from __future__ import annotations

from typing import Any, Final

from berth.server.api.operations import ACTION_KEY

PROBLEM: Final[dict[str, Any]] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457), with a stable code and the next step. Errors may add members.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri", "examples": ["urn:berth:problem:conflict"]},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "One sentence, with the offending value."},
        "code": {"type": "string", "examples": ["conflict"]},
        "hint": {"type": ["string", "null"], "description": "The next step for the person who sees it."},
        "reasons": {
            "type": "array",
            "description": "With code `denied`: why the gate refuses, worst first.",
            "items": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "errors": {
            "type": "array",
            "description": "With status 422: the fields that are wrong.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
SCHEMES: Final[dict[str, Any]] = {
    "token": {"type": "http", "scheme": "bearer", "description": "An API token: berth_…"},
    "basic": {"type": "http", "scheme": "basic", "description": "Your name, and an API token as password."},
}
_METHODS: Final = frozenset({"get", "put", "post", "patch", "delete", "head", "options"})


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the problem schema, the ways to sign in, and where they are asked for. Safe to call twice."""
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = PROBLEM
    components["securitySchemes"] = SCHEMES
    for methods in document.get("paths", {}).values():
        for method, operation in methods.items():
            if method in _METHODS and ACTION_KEY in operation:
                operation["security"] = [{name: []} for name in SCHEMES]
    return document
