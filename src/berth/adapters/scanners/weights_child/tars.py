"""Which files does a tar stream hold? An own reader: it needs only names and contents, and must notice what is odd.

Formats: v7, ustar, pax, GNU (long names, base-256 numbers). Sparse files are reported, not expanded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from berth.adapters.scanners.weights_child.compression import UnreadableError
from berth.adapters.scanners.weights_child.content import Readable, read_exactly

BLOCK = 512
_LONGEST_HEADER = 1 << 20
_CHUNK = 1 << 20
# Entries of these types have no content whatever their size says (POSIX; Go and Python read them so too).
_HEADER_ONLY = frozenset(b"123456")


@dataclass(frozen=True)
class Entry:
    """A regular file. `offset` counts from the start of the tar; read `size` bytes from `reader` before going on."""

    name: str
    size: int
    offset: int
    sparse: bool
    reader: Readable


class _Counting:
    def __init__(self, source: Readable) -> None:
        self._source = source
        self.at = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.at += len(data)
        return data


class _Limited:
    def __init__(self, source: _Counting, size: int) -> None:
        self._source, self.left = source, size

    def read(self, size: int, /) -> bytes:
        if not self.left:
            return b""
        data = self._source.read(min(size, self.left))
        if not data:
            raise UnreadableError("the tar ends inside a file")
        self.left -= len(data)
        return data


def is_header(block: bytes) -> bool:
    """Whether 512 bytes are a tar header: the checksum decides."""
    return len(block) >= BLOCK and any(block[:BLOCK]) and _checksum_fits(block[:BLOCK])


def entries(source: Readable, skip: Callable[[int], None] | None = None) -> Iterator[Entry]:
    """The regular files of a tar, in order.

    Args:
        skip: moves `source` forward by so many bytes without reading, where that is possible.

    Raises:
        UnreadableError: not a tar, cut off, or something other than zeros after its end.
    """
    stream = _Counting(source)
    extended: dict[str, str] = {}
    shared: dict[str, str] = {}
    name_override: str | None = None
    while header := read_exactly(stream, BLOCK):
        if not any(header):
            _expect_zeros(stream)
            return
        if len(header) < BLOCK or not _checksum_fits(header):
            raise UnreadableError(f"no tar header at byte {stream.at - len(header)}")
        kind = header[156]
        size = _number(header[124:136])
        if kind in b"xgLK":
            if size > _LONGEST_HEADER:
                raise UnreadableError("an extended tar header is too long")
            body = read_exactly(stream, size)
            read_exactly(stream, -size % BLOCK)
            if kind == ord("L"):
                name_override = body.split(b"\0", 1)[0].decode("utf-8", "replace")
            elif kind == ord("g"):
                shared |= _pax(body)
            elif kind == ord("x"):
                extended = _pax(body)
            continue
        facts = {**shared, **extended}
        if kind not in _HEADER_ONLY:
            size = _decimal(facts["size"]) if "size" in facts else size
            offset, limited = stream.at, _Limited(stream, size)
            sparse = kind == ord("S") or any(key.startswith("GNU.sparse.") for key in facts)
            name = facts.get("GNU.sparse.name") or facts.get("path") or name_override or _name(header)
            yield Entry(name, size, offset, sparse, limited)
            _advance(stream, limited.left, skip)
            read_exactly(stream, -size % BLOCK)
        extended, name_override = {}, None


def _advance(stream: _Counting, size: int, skip: Callable[[int], None] | None) -> None:
    if skip is not None and size > _CHUNK:
        skip(size)
        stream.at += size
        return
    while size:
        data = stream.read(min(size, _CHUNK))
        if not data:
            raise UnreadableError("the tar ends inside a file")
        size -= len(data)


def _expect_zeros(stream: _Counting) -> None:
    while data := stream.read(_CHUNK):
        if data.count(0) != len(data):
            raise UnreadableError("something follows the end of the tar")


def _checksum_fits(header: bytes) -> bool:
    try:
        stated = int(header[148:156].split(b"\0", 1)[0].strip() or b"x", 8)
    except ValueError:
        return False
    blanked = header[:148] + b" " * 8 + header[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in blanked) if stated != sum(blanked) else stated
    return stated == signed


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40 or value > 1 << 62:
            raise UnreadableError("a tar header holds an impossible size")
        return value
    try:
        value = int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError as error:
        raise UnreadableError("a tar header holds an unreadable size") from error
    if value < 0:
        raise UnreadableError("a tar header holds an impossible size")
    return value


def _decimal(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise UnreadableError("an extended tar header holds an unreadable size")
    return int(text)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")


def _pax(body: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    while body.strip(b"\0"):
        length_text, space, _ = body.partition(b" ")
        if not space or not length_text.isdigit() or not 0 < int(length_text) <= len(body):
            raise UnreadableError("an extended tar header is malformed")
        record = body[len(length_text) + 1 : int(length_text) - 1]
        key, equals, value = record.partition(b"=")
        if not equals:
            raise UnreadableError("an extended tar header is malformed")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        body = body[int(length_text) :]
    return found
