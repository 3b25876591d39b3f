"""How is a wrong manifest explained? pydantic's errors → problems with line, column and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from berth.authoring.document import Document, Path, Problem, dotted

_WORDS = {
    "string_type": "text expected",
    "int_type": "a whole number expected",
    "float_type": "a number expected",
    "bool_type": "true or false expected",
    "list_type": "a list expected",
    "dict_type": "`key: value` lines expected",
    "model_type": "`key: value` lines expected",
    "model_attributes_type": "`key: value` lines expected",
}
_TYPES = {
    dict: "`key: value` lines",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
}
# What people know from other tools, and its name here.
_FOREIGN = {
    "apiVersion": "xumi",
    "kind": "xumi",
    "author": "authors",
    "maintainer": "authors",
    "licence": "license",
    "weights": "checkpoints",
    "requirements": "runtime.requirements",
    "entrypoint": "entry",
    "inputs": "interface.inputs",
    "outputs": "interface.outputs",
    "gpu": "hardware.minimum.gpu",
    "image": "runtime.base",
    "env": "environment",
}


def explain(error: ValidationError, read: Document, model: type[BaseModel]) -> list[Problem]:
    """One problem for each place that is wrong, in the order of the file."""
    problems: dict[tuple[Path, str], Problem] = {}
    unions: dict[Path, list[str]] = {}
    for item in error.errors(include_url=False):
        kind = item["type"]
        path = _real_path(item["loc"], read, missing=kind == "missing")
        if kind in ("string_type", "list_type", "dict_type", "model_type") and _in_union(item["loc"], path):
            unions.setdefault(path, []).append(_WORDS[kind].removesuffix(" expected"))
            continue
        problem = _explain(kind, path, item, read, model)
        problems.setdefault((path, problem.message), problem)
    for path, expected in unions.items():
        if not any(known[: len(path)] == path for known, _ in problems):
            message = f"{' or '.join(dict.fromkeys(expected))} expected{_found(path, read)}"
            hint = _quote_hint(path, read)
            problems[(path, message)] = Problem(read.place(path), dotted(path), _sentence(message), hint)
    return sorted(problems.values(), key=lambda p: (p.place.line, p.place.column))


def _explain(kind: str, path: Path, item: Mapping[str, Any], read: Document, model: type[BaseModel]) -> Problem:
    context = item.get("ctx") or {}
    place = read.place(path)
    where = dotted(path)
    if kind == "extra_forbidden":
        key = str(path[-1])
        return Problem(
            read.place(path, key=True), dotted(path[:-1]), f"`{key}` is not known here.", _meant(key, path, read, model)
        )
    if kind in ("missing", "union_tag_not_found"):
        key = str(path[-1]) if kind == "missing" else "type"
        around = path[:-1] if kind == "missing" else path
        hint = f"Add `{key}: {_example(path, model)}`."
        return Problem(read.place(around), dotted(around), f"`{key}` is missing.", hint)
    if kind == "union_tag_invalid":
        known = re.findall(r"'([^']+)'", str(context.get("expected_tags", "")))
        tag = str(context.get("tag", ""))
        return Problem(read.place((*path, "type")), f"{where}.type", f"{tag!r} is not a type.", _choose(tag, known))
    if kind in ("literal_error", "enum"):
        known = re.findall(r"'([^']+)'", str(context.get("expected", ""))) or [str(context.get("expected"))]
        return Problem(place, where, f"{item['input']!r} is not allowed.", _choose(str(item["input"]), known))
    if kind == "value_error":
        text = str(context.get("error", item["msg"]))
        return Problem(place, where, _sentence(text), None)
    if kind == "string_pattern_mismatch":
        wrong = f"{item['input']!r} does not have the right form."
        return Problem(place, where, wrong, _pattern_hint(path, model, context))
    if kind in _WORDS:
        return Problem(place, where, _sentence(_WORDS[kind] + _found(path, read)), _quote_hint(path, read))
    message = re.sub(r"^(Input|String|List|Dictionary) should", "must", str(item["msg"]))
    return Problem(place, where, _sentence(message), None)


def _real_path(location: tuple[int | str, ...], read: Document, *, missing: bool = False) -> Path:
    """pydantic's location without the names it puts in for union members and the like."""
    path: Path = ()
    for number, part in enumerate(location):
        extended = (*path, part)
        absent = missing and number == len(location) - 1
        if extended in read.values or extended in read.keys or absent:
            path = extended
    return path


def _in_union(location: tuple[int | str, ...], path: Path) -> bool:
    return len(location) > len(path)


def _value(path: Path, read: Document) -> Any:
    value = read.data
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _found(path: Path, read: Document) -> str:
    value = _value(path, read)
    if value is None:
        return ", not nothing"
    return f", not {_TYPES.get(type(value), type(value).__name__)}"


def _quote_hint(path: Path, read: Document) -> str | None:
    if isinstance(_value(path, read), int | float) and path in read.written:
        return f'If it is meant as text, quote it: "{read.written[path]}".'
    return None


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _choose(given: str, known: list[str]) -> str:
    near = difflib.get_close_matches(given, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Write one of: {', '.join(known)}."


def _meant(key: str, path: Path, read: Document, model: type[BaseModel]) -> str:
    fields = _fields_at(path[:-1], read, model)
    near = difflib.get_close_matches(key.lower(), fields, n=1, cutoff=0.6)
    if near:
        return f"Did you mean `{near[0]}`?"
    if key in _FOREIGN:
        return f"Did you mean `{_FOREIGN[key]}`?"
    return f"Known keys: {', '.join(fields)}." if fields else "Remove it."


def _example(path: Path, model: type[BaseModel]) -> str:
    found = _field(path, model)
    if found is not None and found.examples:
        return str(found.examples[0])
    return {"xumi": "1", "entry": "{python: module:Class}", "type": "text"}.get(str(path[-1]) if path else "", "…")


def _pattern_hint(path: Path, model: type[BaseModel], context: Mapping[str, Any]) -> str:
    found = _field(path, model)
    if found is not None and found.examples:
        return f"Write it like {found.examples[0]}."
    if found is not None and found.description:
        return f"{found.description} Form: {context.get('pattern')}."
    return f"Form: {context.get('pattern')}."


def _fields_at(path: Path, read: Document, model: type[BaseModel]) -> list[str]:
    """Names of the keys that may stand at `path`."""
    models = _models_at(path, model)
    kind = _value((*path, "type"), read)
    chosen = [m for m in models if "type" not in m.model_fields or kind in get_args(m.model_fields["type"].annotation)]
    names: dict[str, None] = {}
    for found in chosen or models:
        names.update((field.alias or name, None) for name, field in found.model_fields.items())
    return list(names)


def _field(path: Path, model: type[BaseModel]) -> Any:
    if not path:
        return None
    for found in _models_at(path[:-1], model):
        for name, field in found.model_fields.items():
            if path[-1] in (name, field.alias):
                return field
    return None


def _models_at(path: Path, model: type[BaseModel]) -> list[type[BaseModel]]:
    models = [model]
    for part in path:
        if isinstance(part, int):
            continue
        inner: list[type[BaseModel]] = []
        for found in models:
            for name, field in found.model_fields.items():
                if part in (name, field.alias):
                    inner.extend(_models_in(field.annotation))
        models = inner
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, list, Annotated, dict):
        return [found for inner in get_args(annotation) for found in _models_in(inner)]
    return []
