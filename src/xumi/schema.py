"""Does a JSON value fit a JSON Schema? The part of JSON Schema 2020-12 that describes plain data.

A schema with a keyword not listed here is refused when the manifest is checked, so nothing is silently ignored.
"""

from __future__ import annotations

import math
import re
from typing import Any, Callable, Dict, List

from xumi.problems import InvalidValue

MAX_DEPTH = 32
ANNOTATIONS = frozenset(
    (
        "title",
        "description",
        "default",
        "examples",
        "format",
        "$schema",
        "$comment",
        "deprecated",
        "readOnly",
        "writeOnly",
    )
)
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_LISTS = ("anyOf", "oneOf", "allOf")
_OTHERS = ("type", "enum", "const", "properties", "required", "additionalProperties", "items", "uniqueItems", "pattern")
KEYWORDS = ANNOTATIONS.union(_OTHERS, _COUNTS, _BOUNDS, _LISTS, ("not",))


def check_schema(schema: Any, depth: int = 0) -> None:
    """Raises InvalidValue when `schema` is not one that `validate` understands completely."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise InvalidValue("a schema is an object")
    if depth > MAX_DEPTH:
        raise InvalidValue(f"nested deeper than {MAX_DEPTH} levels")
    for key, value in schema.items():
        try:
            _check_keyword(key, value, depth)
        except InvalidValue as error:
            raise error.below(str(key)) from None


def _check_keyword(key: str, value: Any, depth: int) -> None:  # noqa: C901 - a table in words
    if key not in KEYWORDS:
        raise InvalidValue("this JSON Schema keyword is not supported")
    if key == "type":
        for name in value if isinstance(value, list) else [value]:
            if name not in TYPES:
                raise InvalidValue(f"{name!r} is not a type; write one of {', '.join(TYPES)}")
    elif key == "properties":
        _expect(isinstance(value, dict), "an object of schemas is expected")
        for name, inner in value.items():
            _check_inner(inner, name, depth)
    elif key == "required":
        _expect(isinstance(value, list) and all(isinstance(v, str) for v in value), "a list of names is expected")
    elif key in ("items", "additionalProperties", "not"):
        check_schema(value, depth + 1)
    elif key in _LISTS:
        _expect(isinstance(value, list) and bool(value), "a list of schemas is expected")
        for number, inner in enumerate(value):
            _check_inner(inner, f"[{number}]", depth)
    elif key == "enum":
        _expect(isinstance(value, list) and bool(value), "a list of values is expected")
    elif key == "pattern":
        _expect(isinstance(value, str), "a regular expression is expected")
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise InvalidValue(f"no regular expression: {error}") from None
    elif key in _COUNTS:
        _expect(isinstance(value, int) and not isinstance(value, bool) and value >= 0, "a count is expected")
    elif key in _BOUNDS:
        _expect(_is_number(value) and (key != "multipleOf" or value > 0), "a number is expected")
    elif key == "uniqueItems":
        _expect(isinstance(value, bool), "true or false is expected")


def _check_inner(inner: Any, name: str, depth: int) -> None:
    try:
        check_schema(inner, depth + 1)
    except InvalidValue as error:
        raise error.below(name) from None


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidValue(message)


def validate(schema: Any, value: Any, depth: int = 0) -> None:
    """Raises InvalidValue, with the path inside `value`, when it does not fit."""
    if schema is True or schema == {}:
        return
    if schema is False:
        raise InvalidValue("nothing is allowed here")
    if depth > MAX_DEPTH * 4:
        raise InvalidValue("nested too deep")
    _validate_general(schema, value, depth)
    if isinstance(value, str):
        _validate_text(schema, value)
    elif _is_number(value):
        _validate_number(schema, value)
    elif isinstance(value, list):
        _validate_array(schema, value, depth)
    elif isinstance(value, dict):
        _validate_object(schema, value, depth)


def _validate_general(schema: Dict[str, Any], value: Any, depth: int) -> None:
    types = schema.get("type")
    if types is not None:
        names = types if isinstance(types, list) else [types]
        if not any(_has_type(value, name) for name in names):
            raise InvalidValue(f"{' or '.join(names)} expected, not {type_name(value)}")
    if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
        raise InvalidValue(f"not one of {short(schema['enum'])}")
    if "const" in schema and not _same(value, schema["const"]):
        raise InvalidValue(f"must be {short(schema['const'])}")
    for inner in schema.get("allOf", ()):
        validate(inner, value, depth + 1)
    if "anyOf" in schema and not any(_fits(inner, value, depth) for inner in schema["anyOf"]):
        raise InvalidValue("fits none of the allowed forms")
    if "oneOf" in schema and sum(_fits(inner, value, depth) for inner in schema["oneOf"]) != 1:
        raise InvalidValue("must fit exactly one of the allowed forms")
    if "not" in schema and _fits(schema["not"], value, depth):
        raise InvalidValue("has a form that is not allowed")


def _validate_text(schema: Dict[str, Any], value: str) -> None:
    if len(value) < schema.get("minLength", 0):
        raise InvalidValue(f"shorter than {schema['minLength']} characters")
    if len(value) > schema.get("maxLength", math.inf):
        raise InvalidValue(f"longer than {schema['maxLength']} characters")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        raise InvalidValue(f"does not match {schema['pattern']}")


def _validate_number(schema: Dict[str, Any], value: float) -> None:
    rules: List[Any] = [
        ("minimum", lambda a, b: a >= b, "less than"),
        ("maximum", lambda a, b: a <= b, "more than"),
        ("exclusiveMinimum", lambda a, b: a > b, "not more than"),
        ("exclusiveMaximum", lambda a, b: a < b, "not less than"),
    ]
    for key, holds, words in rules:
        test: Callable[[float, float], bool] = holds
        if key in schema and not test(value, schema[key]):
            raise InvalidValue(f"{value} is {words} {schema[key]}")
    if "multipleOf" in schema:
        ratio = value / schema["multipleOf"]
        if not math.isfinite(ratio) or abs(ratio - round(ratio)) > 1e-9:
            raise InvalidValue(f"{value} is no multiple of {schema['multipleOf']}")


def _validate_array(schema: Dict[str, Any], value: List[Any], depth: int) -> None:
    if len(value) < schema.get("minItems", 0):
        raise InvalidValue(f"fewer than {schema['minItems']} items")
    if len(value) > schema.get("maxItems", math.inf):
        raise InvalidValue(f"more than {schema['maxItems']} items")
    if schema.get("uniqueItems") and any(_same(a, b) for i, a in enumerate(value) for b in value[:i]):
        raise InvalidValue("an item occurs twice")
    if "items" in schema:
        for number, item in enumerate(value):
            try:
                validate(schema["items"], item, depth + 1)
            except InvalidValue as error:
                raise error.below(f"[{number}]") from None


def _validate_object(schema: Dict[str, Any], value: Dict[str, Any], depth: int) -> None:
    for name in schema.get("required", ()):
        if name not in value:
            raise InvalidValue("is required", name)
    if len(value) < schema.get("minProperties", 0):
        raise InvalidValue(f"fewer than {schema['minProperties']} properties")
    if len(value) > schema.get("maxProperties", math.inf):
        raise InvalidValue(f"more than {schema['maxProperties']} properties")
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        inner = properties.get(name, others)
        if inner is False:
            raise InvalidValue("is not a known property", name)
        try:
            validate(inner, item, depth + 1)
        except InvalidValue as error:
            raise error.below(name) from None


def _fits(schema: Any, value: Any, depth: int) -> bool:
    try:
        validate(schema, value, depth + 1)
    except InvalidValue:
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _has_type(value: Any, name: str) -> bool:
    if name == "integer":
        return _is_number(value) and (isinstance(value, int) or value.is_integer())
    if name == "number":
        return _is_number(value)
    return type_name(value) == name


def type_name(value: Any) -> str:
    """The JSON Schema word for the type of a JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "array"
    if isinstance(value, dict):
        return "object"
    return type(value).__name__


def _same(a: Any, b: Any) -> bool:
    """JSON equality: 1 and 1.0 are the same, 1 and true are not."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b))  # noqa: B905 - Python 3.9
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return bool(a == b)


def short(value: Any) -> str:
    """A value for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "…"
