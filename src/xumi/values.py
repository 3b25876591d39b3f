"""How do files and tensors travel? As Python values for predict(), as JSON on the wire.

A file in JSON is base64 text, a `data:` URL, or {"data": base64, "media_type": …, "name": …}. A tensor is nested lists,
or {"dtype", "shape", "data"} with nested lists or little-endian base64.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from typing import Any, Dict, List, Optional, Sequence, Tuple

from xumi.problems import InvalidValue
from xumi.schema import type_name

# dtype → (struct code, NumPy type string)
DTYPES = {
    "bool": ("?", "|b1"),
    "int8": ("b", "|i1"),
    "int16": ("h", "<i2"),
    "int32": ("i", "<i4"),
    "int64": ("q", "<i8"),
    "uint8": ("B", "|u1"),
    "uint16": ("H", "<u2"),
    "uint32": ("I", "<u4"),
    "uint64": ("Q", "<u8"),
    "float16": ("e", "<f2"),
    "float32": ("f", "<f4"),
    "float64": ("d", "<f8"),
}
_DATA_URL = re.compile(r"^data:([A-Za-z0-9!#$&^_.+/-]*)((?:;[^,;]*)*?)(;base64)?,", re.ASCII)


class File:
    """Bytes with a media type and a name."""

    def __init__(self, data: bytes, media_type: str = "application/octet-stream", name: str = "") -> None:
        self.data = data
        self.media_type = media_type
        self.name = name

    def __repr__(self) -> str:
        return f"File({self.name or '-'}, {self.media_type}, {len(self.data)} bytes)"

    def to_json(self) -> Dict[str, str]:
        found = {"data": base64.b64encode(self.data).decode("ascii"), "media_type": self.media_type}
        if self.name:
            found["name"] = self.name
        return found

    @classmethod
    def from_json(cls, value: Any) -> File:
        """Raises InvalidValue."""
        if isinstance(value, File):
            return value
        media_type, name = "application/octet-stream", ""
        if isinstance(value, dict):
            unknown = sorted(set(value) - {"data", "media_type", "name"})
            if unknown:
                raise InvalidValue("is not known; a file has data, media_type and name", unknown[0])
            media_type = value.get("media_type", media_type)
            name = value.get("name", "")
            if not isinstance(media_type, str) or not isinstance(name, str):
                raise InvalidValue("media_type and name are text")
            value = value.get("data")
        if not isinstance(value, str):
            raise InvalidValue(f"base64 text expected, not {type_name(value)}", "data" if value is None else "")
        text = value
        if text[:5] == "data:":
            found = _DATA_URL.match(text)
            if not found or not found[3]:
                raise InvalidValue("only base64 data: URLs are read")
            media_type = found[1] or media_type
            text = text[found.end() :]
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidValue(f"not base64: {error}") from None
        return cls(data, media_type, name)


class Tensor:
    """Numbers in C order, little-endian. `numpy.asarray(tensor)` reads it without a copy."""

    def __init__(self, dtype: str, shape: Sequence[int], data: bytes) -> None:
        if dtype not in DTYPES:
            raise InvalidValue(f"{dtype!r} is not a dtype; write one of {', '.join(DTYPES)}")
        self.dtype = dtype
        self.shape: Tuple[int, ...] = tuple(shape)
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in self.shape):
            raise InvalidValue("a shape is a list of lengths")
        expected = math.prod(self.shape) * struct.calcsize("<" + DTYPES[dtype][0])
        if len(data) != expected:
            raise InvalidValue(f"{len(data)} bytes of data; shape {list(self.shape)} of {dtype} needs {expected}")
        self.data = data

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}, {list(self.shape)})"

    @property
    def __array_interface__(self) -> Dict[str, Any]:
        return {"version": 3, "shape": self.shape, "typestr": DTYPES[self.dtype][1], "data": self.data}

    def flat(self) -> Tuple[Any, ...]:
        return struct.unpack(f"<{math.prod(self.shape)}{DTYPES[self.dtype][0]}", self.data)

    def tolist(self) -> Any:
        """Nested lists; a plain number for shape []."""
        items: List[Any] = list(self.flat())
        for length in reversed(self.shape[1:]):
            count = len(items) // length if length else math.prod(self.shape[: self.shape.index(length)])
            items = [items[i * length : (i + 1) * length] for i in range(count)]
        return items if self.shape else items[0]

    def to_json(self, as_base64: bool = False) -> Any:
        """Raises InvalidValue for numbers that JSON does not have."""
        if as_base64:
            data = base64.b64encode(self.data).decode("ascii")
            return {"dtype": self.dtype, "shape": list(self.shape), "data": data}
        if self.dtype.startswith("float") and not all(map(math.isfinite, self.flat())):
            raise InvalidValue("holds NaN or infinity, which JSON lists cannot carry; ask for ?tensors=base64")
        return self.tolist()

    @classmethod
    def from_json(cls, value: Any, dtype: str) -> Tensor:
        """Raises InvalidValue."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, dict):
            unknown = sorted(set(value) - {"dtype", "shape", "data"})
            if unknown:
                raise InvalidValue("is not known; a tensor has dtype, shape and data", unknown[0])
            own, shape, data = value.get("dtype", dtype), value.get("shape"), value.get("data")
            if isinstance(data, str):
                if not isinstance(shape, list):
                    raise InvalidValue("is required beside base64 data", "shape")
                return cls(own, shape, File.from_json(data).data)
            tensor = cls.from_json(data, own)
            if shape is not None and list(tensor.shape) != shape:
                raise InvalidValue(f"the lists have shape {list(tensor.shape)}", "shape")
            return tensor
        flat: List[Any] = []
        shape_found = _flatten(value, flat)
        return cls(dtype, shape_found, _pack(flat, dtype))

    @classmethod
    def from_array(cls, value: Any) -> Optional[Tensor]:
        """A NumPy array (or anything with dtype, shape and tobytes) as a tensor; None for anything else."""
        if isinstance(value, Tensor):
            return value
        if not all(hasattr(value, name) for name in ("dtype", "shape", "tobytes")):
            return None
        name = str(value.dtype)
        order = getattr(value.dtype, "byteorder", "=")
        if order == ">":
            value = value.astype(value.dtype.newbyteorder("<"))
            name = value.dtype.name
        return cls(name, [int(n) for n in value.shape], value.tobytes())


def _flatten(value: Any, out: List[Any], depth: int = 0) -> List[int]:
    """Appends the numbers of nested lists to `out`; returns the shape. Raises InvalidValue for ragged lists."""
    if not isinstance(value, list):
        out.append(value)
        return []
    if depth >= 16:
        raise InvalidValue("more than 16 dimensions")
    shape: Optional[List[int]] = None
    for number, item in enumerate(value):
        inner = _flatten(item, out, depth + 1)
        if shape is not None and inner != shape:
            raise InvalidValue(f"item {number} has another shape than the items before it")
        shape = inner
    return [len(value)] + (shape or [])


def _pack(flat: Sequence[Any], dtype: str) -> bytes:
    if dtype not in DTYPES:
        raise InvalidValue(f"{dtype!r} is not a dtype; write one of {', '.join(DTYPES)}")
    for item in flat:
        if dtype == "bool":
            good = isinstance(item, bool)
        elif dtype.startswith("float"):
            good = isinstance(item, (int, float)) and not isinstance(item, bool)
        else:
            good = isinstance(item, int) and not isinstance(item, bool)
        if not good:
            raise InvalidValue(f"{dtype} expected, not {type_name(item)}")
    try:
        return struct.pack(f"<{len(flat)}{DTYPES[dtype][0]}", *flat)
    except (struct.error, OverflowError):
        raise InvalidValue(f"a number does not fit {dtype}") from None
