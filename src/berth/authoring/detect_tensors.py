"""What is in a safetensors or GGUF file? Only the headers are read (safetensors format; GGUF versions 2 and 3).

Sizes and counts are checked against the file before anything is allocated for them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from berth.authoring.detect_limits import Malformed

MAX_HEADER = 32 * 1024 * 1024
MAX_TENSORS = 200_000
# safetensors dtype → bits
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# ggml type → name, numbers in a block, bytes of a block
GGML_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
_MAX_DIMENSIONS = 4
_ALIGNMENT = 32
_MAX_TEXT = 16 * 1024 * 1024
_MAX_ITEMS = 2_000_000
_KEPT_TEXT = 400


@dataclass(frozen=True)
class Safetensors:
    """`parameters` counts numbers, `dtypes` says of which kinds; `metadata` is the file's own."""

    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gguf:
    """`values` holds the plain entries of the metadata (text cut at 400 characters), not the arrays.

    `parameters` counts numbers, `dtypes` says how they are stored, as ggml calls it.
    """

    version: int
    tensors: int
    parameters: int = 0
    dtypes: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    def text(self, key: str) -> str:
        found = self.values.get(key)
        return found if isinstance(found, str) else ""

    @property
    def context_length(self) -> int | None:
        """Tokens the model was trained for."""
        found = self.values.get(f"{self.text('general.architecture')}.context_length")
        return found if isinstance(found, int) and 0 < found < 2**31 else None

    @property
    def chat(self) -> bool:
        """Whether it brings a template for conversations."""
        return "tokenizer.chat_template" in self.values


def read_safetensors(path: Path) -> Safetensors:
    """Raises Malformed, OSError."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        start = stream.read(8)
        if len(start) < 8:
            raise Malformed("it is cut short")
        (length,) = struct.unpack("<Q", start)
        if length > size - 8:
            raise Malformed("its header is longer than the file")
        if length > MAX_HEADER:
            raise Malformed(f"its header is longer than {MAX_HEADER} bytes")
        text = stream.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("its header is not JSON") from error
    if not isinstance(header, dict):
        raise Malformed("its header is no JSON object")
    metadata = header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise Malformed(f"it names more than {MAX_TENSORS} tensors")
    end, parameters, dtypes = 0, 0, set()
    for name, entry in header.items():
        last, count, dtype = _tensor(name, entry)
        end, parameters = max(end, last), parameters + count
        dtypes.add(dtype)
    if end != size - 8 - length:
        raise Malformed("it is cut short, or has bytes that no tensor names")
    plain = {k: v for k, v in metadata.items() if isinstance(v, str)} if isinstance(metadata, dict) else {}
    return Safetensors(len(header), parameters, tuple(sorted(dtypes)), plain)


def _tensor(name: str, entry: Any) -> tuple[int, int, str]:
    """(end offset, numbers, dtype) of one tensor."""
    wrong = Malformed(f"the tensor {name[:80]!r} is described wrongly")
    if not isinstance(entry, dict):
        raise wrong
    dtype, shape, offsets = entry.get("dtype"), _lengths(entry.get("shape")), _lengths(entry.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise wrong
    count = math.prod(shape) if len(shape) <= 64 else -1
    first, last = offsets
    if count < 0 or last < first or (dtype in BITS and (count * BITS[dtype] + 7) // 8 != last - first):
        raise wrong
    return last, count, dtype[:20]


def _lengths(value: Any) -> list[int] | None:
    if not isinstance(value, list):
        return None
    good = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63 for n in value)
    return value if good else None


def read_gguf(path: Path) -> Gguf:
    """Raises Malformed, OSError."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        return _Gguf(stream, size).read()


class _Gguf:
    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size
        self._items = _MAX_ITEMS

    def read(self) -> Gguf:
        if self._take(4) != b"GGUF":
            raise Malformed("it is no GGUF file")
        version = self._number("I")
        if version not in (2, 3):
            # A swapped number would be a big-endian file; version 1 is from before its first release.
            raise Malformed(f"GGUF version {version} is not known")
        tensors, count = self._number("Q"), self._number("Q")
        if count > self._size // 12 or tensors > self._size // 16:
            raise Malformed("it is cut short")
        values: dict[str, Any] = {}
        for _ in range(count):
            key = self._text(limit=65536)
            value = self._value(self._number("I"))
            if value is not None:
                values[key] = value
        parameters, dtypes = self._tensors(tensors, values.get("general.alignment", _ALIGNMENT))
        return Gguf(version, tensors, parameters, dtypes, values)

    def _tensors(self, count: int, alignment: Any) -> tuple[int, tuple[str, ...]]:
        """(numbers in all, their types). The data of each must lie within the file."""
        if not isinstance(alignment, int) or not 0 < alignment <= _MAX_TEXT:
            raise Malformed("its alignment is impossible")
        end, parameters, dtypes = 0, 0, set()
        for _ in range(self._counted(count)):
            self._text(limit=65536)
            dimensions = self._number("I")
            if dimensions > _MAX_DIMENSIONS:
                raise Malformed(f"a tensor has more than {_MAX_DIMENSIONS} dimensions")
            numbers = math.prod(self._number("Q") for _ in range(dimensions))
            kind, offset = self._number("I"), self._number("Q")
            name, block, size = GGML_TYPES.get(kind, (f"type {kind}", 1, 0))
            end, parameters = max(end, offset + numbers // block * size), parameters + numbers
            dtypes.add(name)
        start = -(-self._stream.tell() // alignment) * alignment
        if count and start + end > self._size:
            raise Malformed("it is cut short")
        return parameters, tuple(sorted(dtypes))

    def _value(self, kind: int) -> Any:
        """A plain value, or None for an array, which is skipped."""
        if kind in _GGUF_CODES:
            return self._number(_GGUF_CODES[kind])
        if kind == _STRING:
            return self._text(limit=_MAX_TEXT)[:_KEPT_TEXT]
        if kind == _ARRAY:
            self._skip_array()
            return None
        raise Malformed("its metadata has a type that is not known")

    def _skip_array(self) -> None:
        # Arrays in arrays are counted down instead of followed, so that depth never becomes recursion.
        waiting = 1
        while waiting:
            waiting -= 1
            kind, count = self._number("I"), self._number("Q")
            if kind in _GGUF_SIZES:
                self._skip(count * _GGUF_SIZES[kind])
            elif kind == _STRING:
                for _ in range(self._counted(count)):
                    self._skip(self._number("Q"))
            elif kind == _ARRAY:
                waiting += self._counted(count)
            else:
                raise Malformed("its metadata has a type that is not known")

    def _counted(self, count: int) -> int:
        self._items -= count
        if self._items < 0:
            raise Malformed("its metadata has too many entries")
        return count

    def _number(self, code: str) -> Any:
        data = self._take(struct.calcsize("<" + code))
        return data != b"\0" if code == "?" else struct.unpack("<" + code, data)[0]

    def _text(self, *, limit: int) -> str:
        length = self._number("Q")
        if length > limit:
            raise Malformed("a text in its metadata is too long")
        return self._take(length).decode("utf-8", errors="replace")

    def _take(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise Malformed("it is cut short")
        return data

    def _skip(self, count: int) -> None:
        if count > self._size - self._stream.tell():
            raise Malformed("it is cut short")
        self._stream.seek(count, 1)
