"""What does an ONNX model take and give? Read from the protobuf by a small reader of our own (onnx.proto, IR 3 to 12).

Weights are skipped by seeking, so a model of many gigabytes is read as fast as a small one. Everything is bounded:
fields, name lengths, numbers of inputs. Nothing is executed, and a damaged file is a `Malformed`, never a crash.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from berth.authoring.detect_limits import Malformed

MAX_FIELDS = 2_000_000
MAX_NAME = 4096
MAX_VALUES = 200
# TensorProto.DataType → dtype of the manifest; strings and bfloat16 have none.
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Port:
    """An input or output: dtype None for anything but a tensor of numbers, shape None when the file does not say."""

    name: str
    dtype: str | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class Onnx:
    """The outside of a model. `external` are the files its weights lie in, as the file names them."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    ir_version: int
    opset: int | None
    producer: str
    external: tuple[str, ...]


def read(path: Path) -> Onnx:
    """Raises Malformed, OSError."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        return _Reader(stream).model(size)


class _Reader:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._budget = MAX_FIELDS

    def model(self, size: int) -> Onnx:
        ir_version, opset, producer, graph = 0, None, "", None
        for number, kind, start, value in self._fields(0, size):
            match number, kind:
                case 1, 0:
                    ir_version = value
                case 2, 2:
                    producer = self._text(start, value)
                case 7, 2:
                    graph = (start, start + value)
                case 8, 2:
                    domain, version = self._opset(start, start + value)
                    opset = version if domain in ("", "ai.onnx") else opset
        if graph is None or not 1 <= ir_version <= 1000:
            raise Malformed("it is no ONNX model")
        inputs, outputs, constants, external = self._graph(*graph)
        # Before IR 4 the weights had to be listed as inputs too.
        ports = tuple(port for port in inputs if port.name not in constants)
        return Onnx(ports, tuple(outputs), ir_version, opset, producer, tuple(sorted(external)))

    def _graph(self, start: int, end: int) -> tuple[list[Port], list[Port], set[str], set[str]]:
        inputs: list[Port] = []
        outputs: list[Port] = []
        constants: set[str] = set()
        external: set[str] = set()
        for number, kind, at, value in self._fields(start, end):
            if kind != _BYTES:
                continue
            if number == 5:
                name, location = self._constant(at, at + value)
                constants.add(name)
                if location:
                    external.add(location)
            elif number in (11, 12):
                side = inputs if number == 11 else outputs
                side.append(self._port(at, at + value))
                if len(side) > MAX_VALUES + len(constants) + 100_000:
                    raise Malformed("it has too many inputs")
        return inputs, outputs, constants, external

    def _constant(self, start: int, end: int) -> tuple[str, str]:
        """Name of an initializer, and the file it lies in ("" when it is in the model)."""
        name, location = "", ""
        for number, kind, at, value in self._fields(start, end):
            if number == 8 and kind == _BYTES:
                name = self._text(at, value)
            elif number == 13 and kind == _BYTES:
                key, text = "", ""
                for inner, inner_kind, where, length in self._fields(at, at + value):
                    if inner_kind == _BYTES and inner == 1:
                        key = self._text(where, length)
                    elif inner_kind == _BYTES and inner == 2:
                        text = self._text(where, length)
                if key == "location":
                    location = text
        return name, location

    def _opset(self, start: int, end: int) -> tuple[str, int]:
        domain, version = "", 0
        for number, kind, at, value in self._fields(start, end):
            if number == 1 and kind == _BYTES:
                domain = self._text(at, value)
            elif number == 2 and kind == _VARINT:
                version = value
        return domain, version

    def _port(self, start: int, end: int) -> Port:
        name, dtype, shape = "", None, None
        for number, kind, at, value in self._fields(start, end):
            if number == 1 and kind == _BYTES:
                name = self._text(at, value)
            elif number == 2 and kind == _BYTES:
                for inner, inner_kind, where, length in self._fields(at, at + value):
                    # Field 1 is a tensor; sequences, maps and the like have no dtype in the manifest.
                    if inner == 1 and inner_kind == _BYTES:
                        dtype, shape = self._tensor(where, where + length)
        return Port(name, dtype, shape)

    def _tensor(self, start: int, end: int) -> tuple[str | None, tuple[int | str | None, ...] | None]:
        dtype: str | None = None
        shape: list[int | str | None] | None = None
        for number, kind, at, value in self._fields(start, end):
            if number == 1 and kind == _VARINT:
                dtype = DTYPES.get(value)
            elif number == 2 and kind == _BYTES:
                shape = []
                for inner, inner_kind, where, length in self._fields(at, at + value):
                    if inner == 1 and inner_kind == _BYTES:
                        shape.append(self._dimension(where, where + length))
                        if len(shape) > 64:
                            raise Malformed("a shape has too many dimensions")
        return dtype, None if shape is None else tuple(shape)

    def _dimension(self, start: int, end: int) -> int | str | None:
        found: int | str | None = None
        for number, kind, at, value in self._fields(start, end):
            if number == 1 and kind == _VARINT:
                found = value if value < 2**63 else None
            elif number == 2 and kind == _BYTES:
                found = self._text(at, value)
        return found

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(number, wire type, start of the content, number or length) of each field between two offsets."""
        at = start
        while at < end:
            self._budget -= 1
            if self._budget < 0:
                raise Malformed("it has too many parts")
            self._stream.seek(at)
            head = self._stream.read(20)
            tag, used = _varint(head, 0)
            kind = tag & 7
            if kind == _VARINT:
                value, used = _varint(head, used)
                content, following = at + used, at + used
            elif kind == _BYTES:
                value, used = _varint(head, used)
                content = at + used
                following = content + value
            elif kind in (_FIXED32, _FIXED64):
                value = 4 if kind == _FIXED32 else 8
                content = at + used
                following = content + value
            else:
                raise Malformed("it is no protobuf")
            if following > end or tag >> 3 == 0:
                raise Malformed("it is cut short or no protobuf")
            yield tag >> 3, kind, content, value
            at = following

    def _text(self, start: int, length: int) -> str:
        if length > MAX_NAME:
            raise Malformed("a name is too long")
        self._stream.seek(start)
        return self._stream.read(length).decode("utf-8", errors="replace")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise Malformed("it is cut short")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if not byte & 0x80:
            return value & (2**64 - 1), at
    raise Malformed("it is no protobuf")
