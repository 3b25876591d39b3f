"""How is a bbolt (BoltDB) file written? From a nested mapping; write-only, pure Python.

Layout (go.etcd.io/bbolt 1.3): pages 0 and 1 hold meta, 2 an empty freelist, then leaf and branch pages; little endian.
A page header is id u64, flags u16 (1 branch, 2 leaf, 4 meta, 16 freelist), count u16, overflow u32.
A leaf element is flags u32 (1 = nested bucket), pos u32 (from the element itself), key size u32, value size u32.
A branch element is pos u32, key size u32, child page u64.
A bucket's value is root page u64 (0 = inline: a leaf page follows), sequence u64.
Meta is magic u32, version u32, page size u32, flags u32, root u64, sequence u64, freelist page u64, high-water page
u64, transaction u64, FNV-1a 64 of these 56 bytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

Tree = Mapping[str, "bytes | Tree"]

_PAGE = 4096
_HEADER = struct.Struct("<QHHI")
_LEAF = struct.Struct("<IIII")
_BRANCH = struct.Struct("<IIQ")
_BUCKET = struct.Struct("<QQ")
_META = struct.Struct("<IIIIQQQQQ")
_MAGIC, _VERSION = 0xED0CDAED, 2
_IS_BRANCH, _IS_LEAF, _IS_META, _IS_FREELIST = 1, 2, 4, 16
_IS_BUCKET = 1
_LONGEST_KEY = 32768
_MOST_ELEMENTS = 0xFFF0
_T = TypeVar("_T")


def write(path: Path, tree: Tree) -> None:
    """Write `tree` (bucket name → bucket or value) as a bbolt file. Raises ValueError for keys bbolt can't hold."""
    with path.open("wb") as file:
        _Writer(file).write(tree)
        file.flush()
        os.fsync(file.fileno())


class _Writer:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._next = 3
        file.seek(_PAGE * self._next)

    def write(self, tree: Tree) -> None:
        root, _ = _BUCKET.unpack(self._bucket(tree, may_inline=False))
        self._file.seek(0)
        for number in (0, 1):
            meta = _META.pack(_MAGIC, _VERSION, _PAGE, 0, root, 0, 2, self._next, number)
            meta += struct.pack("<Q", _fnv1a(meta))
            self._file.write(_padded(_HEADER.pack(number, _IS_META, 0, 0) + meta))
        self._file.write(_padded(_HEADER.pack(2, _IS_FREELIST, 0, 0)))

    def _bucket(self, tree: Tree, *, may_inline: bool = True) -> bytes:
        """Write the pages of a bucket; its value in the parent."""
        items: list[tuple[int, bytes, bytes]] = []
        for name in sorted(tree, key=str.encode):
            key, value = name.encode(), tree[name]
            if not 0 < len(key) <= _LONGEST_KEY:
                raise ValueError(f"a key of {len(key)} bytes: {name[:40]!r}")
            items.append((0, key, value) if isinstance(value, bytes) else (_IS_BUCKET, key, self._bucket(value)))
        size = sum(_LEAF.size + len(key) + len(value) for _, key, value in items)
        if may_inline and _HEADER.size + size <= _PAGE // 4 and not any(flags for flags, _, _ in items):
            return _BUCKET.pack(0, 0) + _HEADER.pack(0, _IS_LEAF, len(items), 0) + _leaf(items)
        level = [
            (part[0][1] if part else b"", self._page(_IS_LEAF, len(part), _leaf(part)))
            for part in _parts(items, lambda item: _LEAF.size + len(item[1]) + len(item[2]))
        ]
        while len(level) > 1:
            level = [
                (part[0][0], self._page(_IS_BRANCH, len(part), _branch(part)))
                for part in _parts(level, lambda item: _BRANCH.size + len(item[0]))
            ]
        return _BUCKET.pack(level[0][1], 0)

    def _page(self, flags: int, count: int, body: bytes) -> int:
        pages = -(-(_HEADER.size + len(body)) // _PAGE)
        number, self._next = self._next, self._next + pages
        self._file.write(_padded(_HEADER.pack(number, flags, count, pages - 1) + body, pages))
        return number


def _leaf(items: Sequence[tuple[int, bytes, bytes]]) -> bytes:
    head, data, start = bytearray(), bytearray(), _LEAF.size * len(items)
    for number, (flags, key, value) in enumerate(items):
        head += _LEAF.pack(flags, start + len(data) - _LEAF.size * number, len(key), len(value))
        data += key + value
    return bytes(head + data)


def _branch(items: Sequence[tuple[bytes, int]]) -> bytes:
    head, data, start = bytearray(), bytearray(), _BRANCH.size * len(items)
    for number, (key, page) in enumerate(items):
        head += _BRANCH.pack(start + len(data) - _BRANCH.size * number, len(key), page)
        data += key
    return bytes(head + data)


def _parts(items: Sequence[_T], size_of: Callable[[_T], int]) -> list[list[_T]]:
    """Split into runs that fit a page each; one too large for a page stands alone (its page overflows)."""
    parts: list[list[_T]] = []
    current: list[_T] = []
    used = _HEADER.size
    for item in items:
        size = size_of(item)
        if current and (used + size > _PAGE or len(current) >= _MOST_ELEMENTS):
            parts.append(current)
            current, used = [], _HEADER.size
        current.append(item)
        used += size
    if current or not parts:
        parts.append(current)
    return parts


def _padded(raw: bytes, pages: int = 1) -> bytes:
    return raw + b"\0" * (pages * _PAGE - len(raw))


def _fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value
