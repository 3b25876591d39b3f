"""Does a call keep to the manifest's interface? Inputs are checked and converted before predict(), outputs after it."""

from __future__ import annotations

import difflib
import math
import re
from typing import Any, Dict, List, Mapping

from xumi.problems import InvalidValue
from xumi.schema import type_name, validate
from xumi.values import File, Tensor

MEDIA = ("image", "audio", "video", "file")
Field = Mapping[str, Any]


def read_inputs(fields: List[Field], body: Any) -> Dict[str, Any]:
    """The keyword arguments of predict() for one call.

    Args:
        fields: `interface.inputs` of the manifest.
        body: the decoded JSON object, or the parts of a multipart form.
    Raises:
        InvalidValue: `path` starts with the name of the field that is wrong.
    """
    if not isinstance(body, dict):
        raise InvalidValue(f"an object with the inputs is expected, not {type_name(body)}")
    names = [field["name"] for field in fields]
    for name in body:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            raise InvalidValue(
                f"is not an input; did you mean {near[0]}?"
                if near
                else f"is not an input; there are: {', '.join(names)}",
                str(name),
            )
    found: Dict[str, Any] = {}
    for field in fields:
        name = field["name"]
        if body.get(name) is None and not (name in body and field["type"] == "object"):
            if "default" in field:
                found[name] = _convert(field, field["default"])
            elif field.get("required", True):
                raise InvalidValue("is required", name)
            continue
        found[name] = _convert(field, body[name])
    return found


def _convert(field: Field, value: Any) -> Any:
    """The Python value for predict(); raises InvalidValue when it breaks a rule of the field."""
    name = field["name"]
    try:
        if field["type"] in MEDIA:
            file = File.from_json(value)
            _check_file(field, file)
            return file
        if field["type"] == "tensor":
            tensor = Tensor.from_json(value, field["dtype"])
            _check_tensor(field, tensor)
            return tensor
        check_value(field, value)
        return float(value) if field["type"] == "number" else value
    except InvalidValue as error:
        raise error.below(name) from None


def check_value(field: Field, value: Any) -> None:
    """Checks one JSON value against its field. Raises InvalidValue."""
    kind = field["type"]
    if kind in MEDIA:
        _check_file(field, File.from_json(value))
    elif kind == "tensor":
        _check_tensor(field, Tensor.from_json(value, field["dtype"]))
    elif kind == "object":
        validate(field.get("schema") or {}, value)
    elif kind == "text":
        _expect(isinstance(value, str), "text", value)
        _between(len(value), field.get("min_length"), field.get("max_length"), " characters")
        if field.get("pattern") is not None and not re.search(field["pattern"], value):
            raise InvalidValue(f"does not match {field['pattern']}")
    elif kind == "boolean":
        _expect(isinstance(value, bool), "true or false", value)
    elif kind == "enum":
        if value not in field["values"] or not isinstance(value, str):
            raise InvalidValue(f"must be one of {', '.join(field['values'])}")
    elif kind == "integer":
        _expect(isinstance(value, int) and not isinstance(value, bool), "a whole number", value)
        _between(value, field.get("minimum"), field.get("maximum"))
    elif kind == "number":
        _expect(isinstance(value, (int, float)) and not isinstance(value, bool), "a number", value)
        _expect(math.isfinite(value), "a finite number", value)
        _between(value, field.get("minimum"), field.get("maximum"))
    else:
        raise InvalidValue(f"the type {kind} is not known to this runtime")


def write_outputs(fields: List[Field], result: Any, as_base64: bool = False) -> Dict[str, Any]:
    """What predict() returned, as a JSON object; a model with one output may return its value alone.

    Raises:
        InvalidValue: it breaks the contract.
    """
    names = [field["name"] for field in fields]
    if len(fields) == 1 and not (isinstance(result, Mapping) and set(result) == set(names)):
        result = {names[0]: result}
    if not isinstance(result, Mapping):
        raise InvalidValue(f"predict() must return a dict with {', '.join(names)}, not {type(result).__name__}")
    unknown = sorted(str(name) for name in result if name not in names)
    if unknown and fields:
        raise InvalidValue("is not an output of the manifest", unknown[0])
    if not fields:
        return {str(name): plain(value) for name, value in result.items()}
    found: Dict[str, Any] = {}
    for field in fields:
        name = field["name"]
        if result.get(name) is None and not (name in result and field["type"] == "object"):
            if field.get("required", True):
                raise InvalidValue("is missing", name)
            continue
        try:
            found[name] = _output(field, result[name], as_base64)
        except InvalidValue as error:
            raise error.below(name) from None
    return found


def _output(field: Field, value: Any, as_base64: bool) -> Any:
    if field["type"] in MEDIA:
        if isinstance(value, (bytes, bytearray, memoryview)):
            media_types = [m for m in field.get("media_types") or () if not m.endswith("/*")]
            value = File(bytes(value), media_types[0] if media_types else "application/octet-stream")
        if not isinstance(value, File):
            raise InvalidValue(f"bytes or xumi.File expected, not {type(value).__name__}")
        _check_file(field, value)
        return value.to_json()
    if field["type"] == "tensor":
        tensor = Tensor.from_array(value)
        if tensor is None:
            tensor = Tensor.from_json(plain(value), field["dtype"])
        _check_tensor(field, tensor)
        return tensor.to_json(as_base64)
    value = plain(value)
    check_value(field, value)
    return value


def plain(value: Any) -> Any:
    """JSON types for what models return: NumPy numbers and arrays, tuples, nested. Raises InvalidValue."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidValue("NaN and infinity are not JSON")
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return File(bytes(value)).to_json()
    if isinstance(value, File):
        return value.to_json()
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise InvalidValue(f"{type(value).__name__} cannot be written as JSON")


def _check_file(field: Field, file: File) -> None:
    if field.get("max_size") is not None and len(file.data) > field["max_size"]:
        raise InvalidValue(f"{len(file.data)} bytes; at most {field['max_size']} are allowed")
    allowed = field.get("media_types") or ()
    given = file.media_type.partition(";")[0].strip().lower()
    # Without a declared type the bytes are the model's to judge.
    if not allowed or given in ("", "application/octet-stream"):
        return
    if not any(given == a.lower() or (a.endswith("/*") and given.startswith(a[:-1].lower())) for a in allowed):
        raise InvalidValue(f"{given} is not one of {', '.join(allowed)}")


def _check_tensor(field: Field, tensor: Tensor) -> None:
    if tensor.dtype != field["dtype"]:
        raise InvalidValue(f"dtype {tensor.dtype}; {field['dtype']} is expected")
    shape = field["shape"]
    fits = len(shape) == len(tensor.shape)
    seen: Dict[str, int] = {}
    if fits:
        for want, have in zip(shape, tensor.shape):  # noqa: B905 - Python 3.9
            if isinstance(want, str):
                fits = fits and seen.setdefault(want, have) == have
            elif want is not None:
                fits = fits and want == have
    if not fits:
        raise InvalidValue(f"shape {list(tensor.shape)}; {shape} is expected")


def _expect(condition: bool, what: str, value: Any) -> None:
    if not condition:
        raise InvalidValue(f"{what} expected, not {type_name(value)}")


def _between(value: float, low: Any, high: Any, unit: str = "") -> None:
    if low is not None and value < low:
        raise InvalidValue(f"{value}{unit} is less than {low}")
    if high is not None and value > high:
        raise InvalidValue(f"{value}{unit} is more than {high}")
