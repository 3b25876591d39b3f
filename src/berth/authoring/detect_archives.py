"""What is a `.pt`, `.pkl` or `.joblib` file? Told from names and text in it; nothing is ever unpickled or unpacked.

PyTorch files are zip archives: their lists of names are read by hand, because a list can claim any size (zip, APPNOTE
4.3.12 to 4.3.16). A pickle's library is guessed from the module names that stand in it as text.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from berth.authoring.detect_limits import Malformed

MAX_DIRECTORY = 32 * 1024 * 1024
_END = b"PK\x05\x06"
_END_BYTES, _COMMENT_BYTES = 22, 65_535
_HEAD, _TAIL = 1024 * 1024, 256 * 1024
_LIBRARIES = ("sklearn", "xgboost", "lightgbm", "catboost", "torch", "keras", "statsmodels", "pandas", "numpy")
_MODULE = re.compile(
    rb"(?:(?<=c)|(?<![\w.]))((?:%s)(?:\.\w{1,60}){0,6})(?:\x94?\x8c.|\n)([A-Z]\w{1,60})"
    % b"|".join(name.encode() for name in _LIBRARIES)
)
_NAME = re.compile(rb"(?:(?<=c)|(?<![\w.]))(%s)\.[a-z_]\w{0,60}" % b"|".join(name.encode() for name in _LIBRARIES))
_SKLEARN_VERSION = re.compile(
    rb"_sklearn_version(?:\x94|q.)?(?:\x8c.|X....)(\d{1,3}\.\d{1,3}(?:\.\d{1,3})?)", re.DOTALL
)


@dataclass(frozen=True)
class Archive:
    """`kind`: torchscript (runs by itself), torch (a pickle in a zip), keras, or zip."""

    kind: str
    entries: int


@dataclass(frozen=True)
class Pickle:
    """What the text in it suggests: library, class of the outermost object, version of scikit-learn."""

    library: str | None
    class_name: str | None
    sklearn_version: str | None


def read_archive(path: Path) -> Archive:
    """Raises Malformed, OSError."""
    with path.open("rb") as stream:
        names = list(_names(stream))
    insides = {name.partition("/")[2] for name in names}
    if any(inside.startswith("code/") for inside in insides) and "data.pkl" in insides:
        kind = "torchscript"
    elif "data.pkl" in insides:
        kind = "torch"
    elif "config.json" in names and "model.weights.h5" in names:
        kind = "keras"
    else:
        kind = "zip"
    return Archive(kind, len(names))


def read_pickle(path: Path) -> Pickle:
    """What a pickle's text suggests; a compressed one says nothing. Raises OSError."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _TAIL))
        tail = stream.read(_TAIL)
    classes = [(m[1].decode(), m[2].decode()) for m in _MODULE.finditer(head)]
    names = [m[1].decode() for m in _NAME.finditer(head)]
    library = classes[0][0].partition(".")[0] if classes else (names[0] if names else None)
    version = _SKLEARN_VERSION.search(head) or _SKLEARN_VERSION.search(tail)
    if version:
        library = "sklearn"
    return Pickle(library, classes[0][1] if classes else None, version[1].decode() if version else None)


def _names(stream: BinaryIO) -> Iterator[str]:
    size = stream.seek(0, 2)
    start = max(0, size - _END_BYTES - _COMMENT_BYTES)
    stream.seek(start)
    tail = stream.read(_END_BYTES + _COMMENT_BYTES)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise Malformed("it is no zip archive, or cut short")
    length, offset = struct.unpack_from("<II", tail, at + 12)
    if 0xFFFFFFFF in (length, offset):
        length, offset = _zip64(stream, start + at)
    if length > MAX_DIRECTORY:
        raise Malformed(f"its list of files is longer than {MAX_DIRECTORY} bytes")
    if offset + length > size:
        raise Malformed("it is cut short")
    stream.seek(offset)
    data = stream.read(length)
    at = 0
    while at < len(data):
        if len(data) - at < 46 or data[at : at + 4] != b"PK\x01\x02":
            raise Malformed("its list of files is damaged")
        name, extra, comment = struct.unpack_from("<HHH", data, at + 28)
        yield data[at + 46 : at + 46 + name].decode("utf-8", errors="replace")
        at += 46 + name + extra + comment


def _zip64(stream: BinaryIO, end: int) -> tuple[int, int]:
    """(length, offset) of the list of files of an archive beyond 4 GiB."""
    if end < 20:
        raise Malformed("it is cut short")
    stream.seek(end - 20)
    locator = stream.read(20)
    if locator[:4] != b"PK\x06\x07":
        raise Malformed("its list of files is damaged")
    (where,) = struct.unpack_from("<Q", locator, 8)
    if where > end:
        raise Malformed("its list of files is damaged")
    stream.seek(where)
    record = stream.read(56)
    if len(record) != 56 or record[:4] != b"PK\x06\x06":
        raise Malformed("its list of files is damaged")
    length, offset = struct.unpack_from("<QQ", record, 40)
    return length, offset
