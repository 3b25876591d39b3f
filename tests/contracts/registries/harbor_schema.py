"""Checks requests and responses against Harbor's own API description (harbor-subset.yaml), strictly.

Stricter than the description where it is silent: a member that it does not name is a mistake, in either direction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from jsonschema import Draft4Validator  # type: ignore[import-untyped]

from tests.unit.wire.peer import Answer, Asked

BASE = "/api/v2.0"
# Statuses that Harbor's code answers and its description leaves out (registries.md §4, marked [c]).
UNDOCUMENTED = {
    ("scanArtifact", 409),
    ("scanArtifact", 412),
    ("getProject", 403),
    ("getProject", 404),
    ("CreateRobot", 409),
    ("deleteTag", 412),
}


class Mismatch(AssertionError):
    """A request or response that the description does not allow."""


class HarborSchema:
    """`used` collects the operations that were asked for."""

    def __init__(self) -> None:
        self._document = yaml.safe_load((Path(__file__).parent / "harbor-subset.yaml").read_text())
        self._strict = {"definitions": {k: _strict(v) for k, v in self._document["definitions"].items()}}
        self._routes = [
            (method.upper(), re.compile("".join(_pattern(part) for part in re.split(r"(\{\w+\})", path))), operation)
            for path, item in self._document["paths"].items()
            for method, operation in item.items()
        ]
        self.used: set[str] = set()

    @property
    def operations(self) -> set[str]:
        return {operation["operationId"] for _, _, operation in self._routes}

    def request(self, asked: Asked) -> tuple[dict[str, Any], dict[str, str]]:
        """The operation and its path parameters, decoded once. Raises Mismatch."""
        raw = asked.target.partition("?")[0].removeprefix(BASE)
        for method, pattern, operation in self._routes:
            found = pattern.fullmatch(raw)
            if method == asked.method and found:
                self.used.add(operation["operationId"])
                self._check_query(operation, asked)
                self._check_body(operation, asked)
                return operation, {key: unquote(value) for key, value in found.groupdict().items()}
        raise Mismatch(f"no such operation: {asked.method} {raw}")

    def response(self, operation: Mapping[str, Any], answer: Answer) -> None:
        """Raises Mismatch when Harbor would not answer that."""
        name = operation["operationId"]
        if (name, answer.status) in UNDOCUMENTED:
            return
        if name.startswith("head") and not answer.body:
            return  # HEAD has no body, whatever the shared error answer says
        documented = operation["responses"].get(str(answer.status))
        if documented is None:
            raise Mismatch(f"{name} does not answer {answer.status}")
        documented = self._resolved(documented)
        schema = documented.get("schema")
        kind = (answer.headers.get("Content-Type") or "application/json").partition(";")[0]
        if schema is None:
            if answer.body:
                raise Mismatch(f"{name} answers {answer.status} without a body")
        elif kind == "application/json" and schema != {"type": "string"}:
            self._validate(schema, json.loads(answer.body), f"answer of {name}")

    def _check_query(self, operation: Mapping[str, Any], asked: Asked) -> None:
        known = {p["name"]: p for p in self._parameters(operation) if p["in"] == "query"}
        for key, values in asked.query.items():
            if key not in known:
                raise Mismatch(f"{operation['operationId']} has no query parameter {key}")
            self._validate_text(known[key], values[-1], key)
        missing = {key for key, p in known.items() if p.get("required")} - set(asked.query)
        if missing:
            raise Mismatch(f"{operation['operationId']} needs {missing}")
        size = asked.query.get("page_size", ["10"])[0]
        if int(size) > 100:
            raise Mismatch("page_size is at most 100")

    def _check_body(self, operation: Mapping[str, Any], asked: Asked) -> None:
        body = next((p for p in self._parameters(operation) if p["in"] == "body"), None)
        if body is None:
            if asked.body:
                raise Mismatch(f"{operation['operationId']} takes no body")
            return
        if not asked.body:
            if body.get("required"):
                raise Mismatch(f"{operation['operationId']} needs a body")
            return
        if asked.headers.get("content-type") != "application/json":
            raise Mismatch("a body is JSON")
        self._validate(body["schema"], json.loads(asked.body), f"body of {operation['operationId']}")

    def _parameters(self, operation: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [self._resolved(p) for p in operation.get("parameters", [])]

    def _resolved(self, item: Mapping[str, Any]) -> dict[str, Any]:
        if "$ref" in item:
            _, section, name = item["$ref"].split("/")
            return dict(self._document[section][name])
        return dict(item)

    def _validate(self, schema: Mapping[str, Any], value: Any, where: str) -> None:
        problems = list(Draft4Validator({**_strict(schema), **self._strict}).iter_errors(value))
        if problems:
            raise Mismatch(f"{where}: {problems[0].message} at {list(problems[0].path)}")

    def _validate_text(self, parameter: Mapping[str, Any], text: str, where: str) -> None:
        kind = parameter.get("type")
        good = {"integer": text.lstrip("-").isdigit(), "boolean": text in ("true", "false")}.get(str(kind), True)
        if not good or ("enum" in parameter and text not in parameter["enum"]):
            raise Mismatch(f"{where}={text} is no {kind}")


def _pattern(part: str) -> str:
    return f"(?P<{part[1:-1]}>[^/]+)" if part.startswith("{") else re.escape(part)


def _strict(schema: Any) -> Any:
    """JSON schema of a Swagger 2 schema, closed: no members besides the named ones."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}
    found = {key: _strict(value) for key, value in schema.items() if not key.startswith("x-")}
    if isinstance(schema.get("properties"), dict):
        found["properties"] = {key: _strict(value) for key, value in schema["properties"].items()}
        found.setdefault("additionalProperties", False)
    # `additionalProperties: {type: object}` is how this description writes "anything" (Go: map[string]interface{}).
    if schema.get("additionalProperties") == {"type": "object"}:
        found["additionalProperties"] = {}
    if schema.get("x-nullable") and "type" in schema:
        found["type"] = [schema["type"], "null"]
    return found
