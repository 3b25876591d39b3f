"""How does the model's own API read as OpenAPI 3.1? Made from the manifest's interface."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from xumi.contract import MEDIA

_FILE = {
    "anyOf": [
        {"type": "string", "contentEncoding": "base64"},
        {
            "type": "object",
            "required": ["data"],
            "properties": {
                "data": {"type": "string", "contentEncoding": "base64"},
                "media_type": {"type": "string"},
                "name": {"type": "string"},
            },
        },
    ]
}
_SAME = (("minimum", "minimum"), ("maximum", "maximum"), ("min_length", "minLength"), ("max_length", "maxLength"))


def field_schema(field: Mapping[str, Any]) -> Dict[str, Any]:
    """JSON Schema of one input or output."""
    kind = field["type"]
    if kind in MEDIA:
        schema: Dict[str, Any] = dict(_FILE)
    elif kind == "tensor":
        shape = ", ".join("?" if n is None else str(n) for n in field["shape"])
        schema = {
            "type": ["array", "number", "boolean", "object"],
            "description": f"Tensor of {field['dtype']}, shape [{shape}]; nested lists, or dtype, shape, base64 data.",
        }
    elif kind == "object":
        schema = dict(field.get("schema") or {})
    elif kind == "enum":
        schema = {"type": "string", "enum": list(field["values"])}
    else:
        schema = {"type": {"text": "string"}.get(kind, kind)}
        schema.update({theirs: field[ours] for ours, theirs in _SAME if field.get(ours) is not None})
        if field.get("pattern") is not None:
            schema["pattern"] = field["pattern"]
    if field.get("title"):
        schema["title"] = field["title"]
    if field.get("description"):
        schema["description"] = field["description"]
    if "default" in field:
        schema["default"] = field["default"]
    return schema


def _object(fields: Any) -> Dict[str, Any]:
    schema: Dict[str, Any] = {"type": "object", "properties": {f["name"]: field_schema(f) for f in fields}}
    required = [f["name"] for f in fields if f.get("required", True)]
    if required:
        schema["required"] = required
    return schema


def document(manifest: Mapping[str, Any]) -> Dict[str, Any]:
    """The OpenAPI document of a served model."""
    interface = manifest.get("interface") or {}
    inputs = _object(interface.get("inputs") or ())
    inputs["additionalProperties"] = False
    problem = {
        "description": "Refused",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    form = {
        "type": "object",
        "properties": {
            f["name"]: {"type": "string", "contentMediaType": "application/octet-stream"}
            if f["type"] in MEDIA
            else field_schema(f)
            for f in interface.get("inputs") or ()
        },
    }
    answer = _object(interface.get("outputs") or ())
    # A streaming model answers one such object per line.
    kind = "application/x-ndjson" if interface.get("streaming") else "application/json"
    text = {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": manifest.get("name", "model"),
            "version": str(manifest.get("version", "0")),
            "description": manifest.get("description") or "",
        },
        "paths": {
            "/invoke": {
                "post": {
                    "operationId": "invoke",
                    "summary": "Run the model on one input.",
                    "parameters": [
                        {
                            "name": "tensors",
                            "in": "query",
                            "schema": {"type": "string", "enum": ["lists", "base64"]},
                            "description": "How tensors are written in the answer.",
                        }
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": inputs}, "multipart/form-data": {"schema": form}},
                    },
                    "responses": {
                        "200": {
                            "description": "The outputs",
                            "content": {kind: {"schema": answer}},
                        },
                        **dict.fromkeys(("400", "413", "422", "500", "503"), problem),
                    },
                }
            },
            "/xumi": {"get": {"operationId": "manifest", "summary": "The manifest.", "responses": {"200": text}}},
            "/healthz/live": {
                "get": {"operationId": "live", "summary": "The process runs.", "responses": {"200": text}}
            },
            "/healthz/ready": {
                "get": {
                    "operationId": "ready",
                    "summary": "The model takes calls.",
                    "responses": {"200": text, "503": problem},
                }
            },
        },
        "components": {
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {
                        "error": {
                            "type": "object",
                            "required": ["code", "message"],
                            "properties": {
                                "code": {"type": "string"},
                                "message": {"type": "string"},
                                "field": {"type": "string"},
                            },
                        }
                    },
                }
            }
        },
    }
