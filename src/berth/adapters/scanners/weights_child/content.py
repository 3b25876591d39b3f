"""How are a file's bytes reached: in memory, as a window of a file of the depot, or once through a stream?"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import BinaryIO, Protocol

HEAD = 64 << 10
_CHUNK = 1 << 20


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Window(io.RawIOBase):
    """A read-only, seekable view of `size` bytes of an open file from `offset`; its position is its own."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        super().__init__()
        self._fd, self._offset, self._size, self._at = fd, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("seek before the start")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), max(0, self._size - self._at))
        data = os.pread(self._fd, wanted, self._offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Chained:
    """Bytes already read, then the rest of a stream."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int, /) -> bytes:
        if self._head:
            part, self._head = self._head[:size], self._head[size:]
            return part
        return self._rest.read(size)


@dataclass
class Content:
    """One file. Exactly one of `data`, `window`, `stream` is there.

    `size` is None when only reading to the end would tell. A stream can be used once.
    """

    path: str
    size: int | None
    data: bytes | None = None
    window: tuple[int, int] | None = None  # (file descriptor, offset)
    stream: Readable | None = None
    _head: bytes | None = None

    def head(self) -> bytes:
        """The first `HEAD` bytes, or all of them."""
        if self.data is not None:
            return self.data[:HEAD]
        if self._head is None:
            if self.window is not None:
                self._head = os.pread(self.window[0], min(HEAD, self.size or 0), self.window[1])
            else:
                self._head = read_exactly(self._raw(), HEAD)
                self.stream = Chained(self._head, self._raw())
        return self._head

    def seekable(self) -> BinaryIO | None:
        """A file with random access, or None for a stream."""
        if self.data is not None:
            return io.BytesIO(self.data)
        if self.window is not None:
            return io.BufferedReader(Window(self.window[0], self.window[1], self.size or 0), _CHUNK >> 3)
        return None

    def sequential(self) -> Readable:
        """A reader from the start."""
        return self.seekable() or self._raw()

    def small_held(self, limit: int) -> Content:
        """The same, in memory if it is a stream of at most `limit` bytes."""
        if self.stream is None or (self.size is not None and self.size > limit):
            return self
        start = read_exactly(self._raw(), limit + 1)
        if len(start) <= limit:
            return Content(self.path, len(start), data=start)
        return Content(self.path, self.size, stream=Chained(start, self._raw()))

    def held(self, limit: int) -> Content | None:
        """The same with random access: a stream is read into memory; None if it has more than `limit` bytes."""
        if self.stream is None:
            return self
        if self.size is not None and self.size > limit:
            return None
        parts, total = [], 0
        while chunk := self._raw().read(_CHUNK):
            total += len(chunk)
            if total > limit:
                return None
            parts.append(chunk)
        return Content(self.path, total, data=b"".join(parts))

    def part(self, path: str, offset: int, size: int) -> Content | None:
        """A piece of content that has random access, without copying where possible."""
        if self.data is not None:
            return Content(path, size, data=self.data[offset : offset + size])
        if self.window is not None:
            return Content(path, size, window=(self.window[0], self.window[1] + offset))
        return None

    def _raw(self) -> Readable:
        if self.stream is None:
            raise ValueError("content has no stream")
        return self.stream


def read_exactly(reader: Readable, size: int) -> bytes:
    """`size` bytes, fewer only at the end."""
    parts, left = [], size
    while left and (chunk := reader.read(min(left, _CHUNK))):
        parts.append(chunk)
        left -= len(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)
