"""Does an answer fit a sample of `xumi.yaml`? Matchers, as pure code: expected and actual JSON in, differences out.

An expected output is a plain value, which the answer must equal, or one of
  {equals: V} · {close: V, rtol: R, atol: A} · {contains: V} · {schema: JSON Schema} · {file: PATH}
`close` compares numbers and nested lists of them: |actual - expected| <= atol + rtol · |expected|.
`contains`: a part of a text, items of a list, or some of an object's members.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from xumi.contract import MEDIA, check_value
from xumi.problems import InvalidValue
from xumi.schema import check_schema, type_name, validate
from xumi.values import File, Tensor

DEFAULT_RTOL = 1e-5
DEFAULT_ATOL = 1e-8
KINDS = ("equals", "close", "contains", "schema")
_TOLERANCES = ("rtol", "atol")
_SHOWN = 5
_LONGEST = 120

Field = Mapping[str, Any]


@dataclass(frozen=True)
class Matcher:
    """What one output is compared with, and how."""

    kind: Literal["equals", "close", "contains", "schema"]
    expected: Any
    rtol: float = DEFAULT_RTOL
    atol: float = DEFAULT_ATOL


def is_file(value: Any) -> bool:
    """Whether a sample's value stands for a file's content: {file: PATH}."""
    return isinstance(value, dict) and set(value) == {"file"} and isinstance(value["file"], str)


def matcher(value: Any) -> Matcher:
    """The matcher that an expected output of `xumi.yaml` writes. Raises InvalidValue when it is malformed.

    An object is a matcher when it has exactly one of the four words and at most rtol and atol beside it; every other
    value stands for itself, and `equals` says so of an object that looks like a matcher.
    """
    if not isinstance(value, dict):
        return Matcher("equals", value)
    words = [kind for kind in KINDS if kind in value]
    if len(words) != 1 or not set(value) <= {words[0], *_TOLERANCES}:
        return Matcher("equals", value)
    kind = words[0]
    if kind != "close":
        if len(value) > 1:
            raise InvalidValue(f"rtol and atol belong to close, not to {kind}")
        return Matcher(kind, value[kind])  # type: ignore[arg-type]
    for name in _TOLERANCES:
        number = value.get(name, 0)
        if not _is_number(number) or not math.isfinite(number) or number < 0:
            raise InvalidValue("a number of at least 0 is expected", name)
    # One tolerance alone means it: the other one is then 0.
    given = set(value) & set(_TOLERANCES)
    rtol = float(value.get("rtol", 0 if given else DEFAULT_RTOL))
    atol = float(value.get("atol", 0 if given else DEFAULT_ATOL))
    return Matcher("close", value["close"], rtol, atol)


def check_expectation(field: Field, value: Any) -> None:
    """Whether an expected output makes sense for the output `field`. Raises InvalidValue."""
    found = matcher(value)
    kind = field["type"]
    if found.kind == "schema":
        check_schema(found.expected)
    elif found.kind == "equals":
        check_value(field, found.expected)
    elif found.kind == "close":
        if kind not in ("integer", "number", "tensor", "object"):
            raise InvalidValue(f"close is for numbers and tensors, not for {kind}; write equals")
        if not _all_numbers(found.expected):
            raise InvalidValue("close needs a number or nested lists of numbers")
        if kind == "tensor" and "float" not in field["dtype"]:
            check_value({**field, "dtype": "float64"}, found.expected)
        elif kind != "object":
            check_value(field, found.expected)
    elif kind in ("text", "enum"):
        if not isinstance(found.expected, str):
            raise InvalidValue(f"contains needs text here, not {type_name(found.expected)}")
    elif kind in MEDIA:
        if not isinstance(found.expected, str):
            raise InvalidValue("contains needs text here: bytes of the file, as UTF-8")
    elif kind not in ("object", "tensor"):
        raise InvalidValue(f"contains is for text, lists and objects, not for {kind}; write equals")


def differences(
    fields: Sequence[Field], expected: Mapping[str, Any], actual: Mapping[str, Any], files: Mapping[str, bytes]
) -> list[str]:
    """What is wrong with an answer, one exact sentence each; empty when it fits.

    Args:
        fields: `interface.outputs`.
        expected: `outputs` of the sample; outputs that it leaves out are not compared.
        actual: the answer, as JSON.
        files: content of the files that `expected` names, by output.
    """
    kinds = {field["name"]: field for field in fields}
    found: list[str] = []
    for name, value in expected.items():
        if name not in actual:
            found.append(f"{name}: is missing in the answer")
            continue
        field = kinds.get(name, {"type": "object"})
        if is_file(value):
            found += _files_differ(name, files[name], actual[name])
        else:
            found += _differ(field, matcher(value), name=name, actual=actual[name])
    return found


def combine(fields: Sequence[Field], pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One answer out of the pieces of a stream: text is joined, of everything else the last value counts."""
    found: dict[str, Any] = {}
    texts = {field["name"] for field in fields if field["type"] == "text"}
    for piece in pieces:
        for name, value in piece.items():
            joins = name in texts and isinstance(value, str) and isinstance(found.get(name), str)
            found[name] = found[name] + value if joins else value
    return found


def short(value: Any) -> str:
    """A value for a message, as JSON, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


# --- matchers ----------------------------------------------------------------------------------------------------


def _differ(field: Field, want: Matcher, *, name: str, actual: Any) -> list[str]:
    if field["type"] == "tensor":
        actual = _plain_tensor(actual, field)
        if want.kind in ("equals", "close") and isinstance(want.expected, dict):
            want = Matcher(want.kind, _plain_tensor(want.expected, field), want.rtol, want.atol)
    if field["type"] in MEDIA and want.kind in ("equals", "contains"):
        return _media_differs(name, want, actual)
    if want.kind == "schema":
        try:
            validate(want.expected, actual)
        except InvalidValue as error:
            return [f"{error.below(name)} (answer: {short(actual)})"]
        return []
    if want.kind == "contains":
        return _lacks(name, want.expected, actual)
    if want.kind == "close":
        return _not_close(name, want, actual)
    return _few(list(_unequal(name, want.expected, actual)))


def _unequal(path: str, expected: Any, actual: Any) -> list[str]:
    """Where two JSON values differ; 1 and 1.0 are the same, 1 and true are not."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        found = [f"{path}.{key}: is missing" for key in expected if key not in actual]
        found += [f"{path}.{key}: is not expected" for key in actual if key not in expected]
        for key in expected:
            if key in actual:
                found += _unequal(f"{path}.{key}", expected[key], actual[key])
        return found
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return [f"{path}: has {_items(len(actual))}, expected {len(expected)}"]
        found = []
        for number, (want, have) in enumerate(zip(expected, actual, strict=True)):
            found += _unequal(f"{path}[{number}]", want, have)
        return found
    same = expected is actual if isinstance(expected, bool) or isinstance(actual, bool) else expected == actual
    return [] if same else [f"{path}: is {short(actual)}, expected {short(expected)}"]


def _not_close(path: str, want: Matcher, actual: Any) -> list[str]:
    """Numbers that are further apart than the tolerances allow."""
    found: list[str] = []
    worst = _Worst()
    _compare(path, want.expected, actual, want=want, found=found, worst=worst)
    allowed = f"rtol {want.rtol:g}, atol {want.atol:g}"
    if worst.path is not None:
        only = "" if worst.compared == 1 else f"{worst.wrong} of {worst.compared} numbers differ; the worst: "
        found.append(
            f"{only}{worst.path}: is {worst.actual!r}, expected {worst.expected!r} "
            f"(difference {worst.difference:.6g}, allowed {worst.allowed:.6g}: {allowed})"
        )
    return _few(found)


class _Worst:
    """The number that misses its tolerance by most, and how many were compared."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.expected = self.actual = self.difference = self.allowed = 0.0
        self.wrong = self.compared = 0


def _compare(path: str, expected: Any, actual: Any, *, want: Matcher, found: list[str], worst: _Worst) -> None:
    if isinstance(expected, list):
        if not isinstance(actual, list):
            found.append(f"{path}: is {type_name(actual)}, expected a list of {len(expected)}")
        elif len(actual) != len(expected):
            found.append(f"{path}: has {_items(len(actual))}, expected {len(expected)}")
        else:
            for number, (inner, other) in enumerate(zip(expected, actual, strict=True)):
                _compare(f"{path}[{number}]", inner, other, want=want, found=found, worst=worst)
        return
    if not _is_number(actual):
        found.append(f"{path}: is {short(actual)}, expected a number close to {expected!r}")
        return
    worst.compared += 1
    difference = abs(actual - expected)
    allowed = want.atol + want.rtol * abs(expected)
    if difference <= allowed:
        return
    worst.wrong += 1
    if worst.path is None or difference - allowed > worst.difference - worst.allowed:
        worst.path, worst.expected, worst.actual = path, expected, actual
        worst.difference, worst.allowed = difference, allowed


def _lacks(path: str, expected: Any, actual: Any) -> list[str]:
    """What `actual` does not hold of `expected`."""
    if isinstance(actual, str) and isinstance(expected, str):
        return [] if expected in actual else [f"{path}: {short(actual)} does not contain {short(expected)}"]
    if isinstance(actual, list):
        wanted = expected if isinstance(expected, list) else [expected]
        missing = [item for item in wanted if all(_unequal("", item, have) for have in actual)]
        return _few([f"{path}: does not contain {short(item)} (answer: {short(actual)})" for item in missing])
    if isinstance(actual, dict) and isinstance(expected, dict):
        found = []
        for key, value in expected.items():
            if key not in actual:
                found.append(f"{path}.{key}: is missing")
            elif isinstance(value, dict) and isinstance(actual[key], dict):
                found += _lacks(f"{path}.{key}", value, actual[key])
            else:
                found += _unequal(f"{path}.{key}", value, actual[key])
        return _few(found)
    return [f"{path}: is {type_name(actual)} and cannot contain {short(expected)}"]


def _files_differ(path: str, expected: bytes, actual: Any) -> list[str]:
    try:
        data = File.from_json(actual).data
    except InvalidValue:
        # Text outputs may be compared with a file as well.
        if not isinstance(actual, str):
            return [f"{path}: is {type_name(actual)}, expected the content of a file"]
        data = actual.encode()
    if isinstance(actual, str) and data != expected:
        data = actual.encode()
    if data == expected:
        return []
    where = next(
        (i for i, (a, b) in enumerate(zip(data, expected, strict=False)) if a != b), min(len(data), len(expected))
    )
    return [f"{path}: has {len(data)} bytes, expected {len(expected)}; they differ from byte {where} on"]


def _media_differs(path: str, want: Matcher, actual: Any) -> list[str]:
    try:
        data = File.from_json(actual).data
    except InvalidValue as error:
        return [f"{error.below(path)}"]
    if want.kind == "contains":
        wanted = str(want.expected).encode()
        return [] if wanted in data else [f"{path}: its {len(data)} bytes do not contain {short(want.expected)}"]
    return _files_differ(path, File.from_json(want.expected).data, File(data).to_json())


def _plain_tensor(value: Any, field: Field) -> Any:
    """Nested lists, however the tensor was written; anything else stays as it is."""
    try:
        return Tensor.from_json(value, field["dtype"]).tolist()
    except InvalidValue:
        return value


def _all_numbers(value: Any) -> bool:
    if isinstance(value, list):
        return all(_all_numbers(item) for item in value)
    return _is_number(value) and math.isfinite(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"


def _few(found: list[str]) -> list[str]:
    """The first differences; the rest as a number."""
    if len(found) <= _SHOWN:
        return found
    return [*found[:_SHOWN], f"… and {len(found) - _SHOWN} more differences"]
