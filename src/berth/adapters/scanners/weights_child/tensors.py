"""Is the header of a tensor file sane? numpy, safetensors, GGUF, ONNX and HDF5, told by content.

These formats carry no code of their own, so a broken header is a problem, not malice. Exceptions: numpy object arrays
hold a pickle, and Keras files can hold a Lambda layer, which is compiled Python.
"""

from __future__ import annotations

import ast
import json
import re
import struct
from dataclasses import dataclass
from typing import Any

from berth.adapters.scanners.weights_child.content import Content, Readable

_SAFETENSORS_HEADER = 100 << 20
_NUMPY_HEADER = 1 << 20
_LAMBDA = re.compile(rb'"class_name"\s*:\s*"Lambda"')
_GGUF_VERSIONS = range(1, 10)
_GGUF_COUNT = 1 << 24
_ONNX_VERSIONS = range(1, 64)
# Top-level fields of onnx.ModelProto: number → protobuf wire type.
_ONNX_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_NUMPY_MAGIC = b"\x93NUMPY"
_CHUNK = 1 << 20
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Numpy:
    """A numpy header: where the data begins, and whether it is a pickle."""

    data_offset: int
    holds_objects: bool


class MalformedError(Exception):
    """The header breaks the format's rules. Never leaves the child."""


def sniff(head: bytes, size: int | None) -> str | None:
    """numpy, safetensors, gguf, hdf5, onnx, or None."""
    if head.startswith(_NUMPY_MAGIC):
        return "numpy"
    if head.startswith(b"GGUF"):
        return "gguf"
    if head.startswith(_HDF5_MAGIC):
        return "hdf5"
    if len(head) > 9 and head[8:9] == b"{" and head[9:10] in b'"}':
        length = int.from_bytes(head[:8], "little")
        if 1 < length <= _SAFETENSORS_HEADER:
            return "safetensors"
    # ir_version, then a text (producer, domain, doc) or the graph: how every exporter begins.
    if (
        len(head) > 4
        and head[0] == 0x08
        and head[1] in _ONNX_VERSIONS
        and head[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A)
    ):
        return "onnx" if size is None or size > 16 else None
    return None


def numpy_header(reader: Readable) -> Numpy:
    """Read a .npy header (numpy/lib/format.py) and leave `reader` behind it. Raises MalformedError."""
    major = _exactly(reader, 8)[6]
    if major not in (1, 2, 3):
        raise MalformedError("numpy header of an unknown version")
    width = 2 if major == 1 else 4
    length = int.from_bytes(_exactly(reader, width), "little")
    if length > _NUMPY_HEADER:
        raise MalformedError("numpy header is too long")
    text = _exactly(reader, length).decode("utf-8" if major == 3 else "latin-1", "replace")
    try:
        # numpy accepts the long integers of Python 2 as well.
        facts = ast.literal_eval(re.sub(r"(?<=\d)L\b", "", text).strip())
        objects = _has_objects(facts["descr"])
    except (IndexError, ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as error:
        if "O" not in text:
            raise MalformedError(f"numpy header can't be read: {type(error).__name__}") from error
        objects = True  # better to follow what may be a pickle
    return Numpy(8 + width + length, objects)


def _has_objects(descr: Any) -> bool:
    if isinstance(descr, str):
        return "O" in descr
    if isinstance(descr, tuple):  # a subarray: (dtype, shape)
        return bool(descr) and _has_objects(descr[0])
    if isinstance(descr, list):  # fields: (name, dtype[, shape])
        return any(_has_objects(field[1]) for field in descr)
    return False


def check_safetensors(content: Content) -> None:
    """Header is JSON, offsets lie inside the file and fit shapes. Raises MalformedError."""
    reader = content.sequential()
    length = int.from_bytes(_exactly(reader, 8), "little")
    if content.size is not None and length + 8 > content.size:
        raise MalformedError("safetensors header is longer than the file")
    try:
        header = json.loads(_exactly(reader, length))
        tensors = {k: v for k, v in header.items() if k != "__metadata__"}
        room = None if content.size is None else content.size - 8 - length
        for name, tensor in tensors.items():
            start, end = tensor["data_offsets"]
            expected = _BYTES.get(tensor["dtype"])
            for extent in tensor["shape"]:
                expected = None if expected is None else expected * extent
            if not 0 <= start <= end or (room is not None and end > room):
                raise MalformedError(f"safetensors: tensor {name!r} lies outside the file")
            if expected is not None and expected != end - start:
                raise MalformedError(f"safetensors: tensor {name!r} has another size than its shape says")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedError(f"safetensors header can't be read: {type(error).__name__}") from error


def check_gguf(head: bytes, size: int | None) -> None:
    """Magic, version and counts. Raises MalformedError."""
    if len(head) < 24:
        raise MalformedError("GGUF file is shorter than its header")
    version, tensors, pairs = struct.unpack_from("<IQQ", head, 4)
    if version not in _GGUF_VERSIONS:
        version, tensors, pairs = struct.unpack_from(">IQQ", head, 4)
    if version not in _GGUF_VERSIONS:
        raise MalformedError("GGUF version is unknown")
    if tensors > _GGUF_COUNT or pairs > _GGUF_COUNT:
        raise MalformedError("GGUF counts are impossible")
    if size is not None and tensors * 24 + pairs * 12 + 24 > size:
        raise MalformedError("GGUF file is too short for what its header counts")


def check_onnx(content: Content) -> None:
    """The top level is a well-formed onnx.ModelProto that fills the file. Raises MalformedError."""
    file = content.seekable()
    if file is None or content.size is None:
        return
    graph = False
    while file.tell() < content.size:
        key = _varint(file)
        number, wire = key >> 3, key & 7
        if wire not in (0, 2) or _ONNX_FIELDS.get(number, wire) != wire:
            raise MalformedError(f"ONNX: field {number} has an impossible type")
        value = _varint(file)
        if wire == 2:
            if file.tell() + value > content.size:
                raise MalformedError(f"ONNX: field {number} is longer than the file")
            file.seek(value, 1)
            graph = graph or number == 7
    if not graph:
        raise MalformedError("ONNX: there is no graph")


def has_lambda(reader: Readable) -> bool:
    """Whether a Keras configuration with a Lambda layer lies anywhere in the bytes."""
    tail = b""
    while chunk := reader.read(_CHUNK):
        if _LAMBDA.search(tail + chunk):
            return True
        tail = chunk[-256:]
    return False


def _varint(file: Readable) -> int:
    value = shift = 0
    while shift < 64:
        byte = file.read(1)
        if not byte:
            raise MalformedError("ONNX: ends too early")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
    raise MalformedError("ONNX: impossible number")


def _exactly(reader: Readable, size: int) -> bytes:
    parts, left = [], size
    while left:
        data = reader.read(min(left, _CHUNK))
        if not data:
            raise MalformedError("the file ends inside its header")
        parts.append(data)
        left -= len(data)
    return b"".join(parts)
