"""How does the pickle machine read? Byte by byte and line by line from a stream of any size, skipping what is data."""

from __future__ import annotations

from berth.adapters.scanners.weights_child.content import Readable, read_exactly

_CHUNK = 256 << 10
_LONGEST_LINE = 1 << 20


class BrokenError(Exception):
    """The stream is no pickle from here on: an unpickler would stop too."""


class TooLargeError(Exception):
    """A limit was reached before the end of the pickle."""


class Source:
    """Buffered bytes with skipping, for data of any size."""

    def __init__(self, reader: Readable) -> None:
        self._reader = reader
        self._buffer = b""
        self._at = 0
        self._before = 0

    @property
    def position(self) -> int:
        return self._before + self._at

    def byte(self) -> int:
        """The next byte, or -1 at the end."""
        if self._at >= len(self._buffer) and not self._fill():
            return -1
        value = self._buffer[self._at]
        self._at += 1
        return value

    def peek(self) -> int:
        value = self.byte()
        if value >= 0:
            self._at -= 1
        return value

    def read(self, size: int) -> bytes:
        end = self._at + size
        if end <= len(self._buffer):
            data = self._buffer[self._at : end]
            self._at = end
            return data
        data = self._buffer[self._at :]
        self._at = len(self._buffer)
        rest = read_exactly(self._reader, size - len(data))
        self._before += len(rest)
        data += rest
        if len(data) < size:
            raise BrokenError("ends too early")
        return data

    def skip(self, size: int) -> None:
        inside = min(size, len(self._buffer) - self._at)
        self._at += inside
        size -= inside
        while size:
            data = self._reader.read(min(size, 1 << 20))
            if not data:
                raise BrokenError("ends too early")
            size -= len(data)
            self._before += len(data)

    def line(self) -> bytes:
        """Up to and without the next newline; the middle of an overlong line is dropped."""
        kept = bytearray()
        while True:
            end = self._buffer.find(b"\n", self._at)
            piece = self._buffer[self._at : end if end >= 0 else len(self._buffer)]
            kept += piece[: _LONGEST_LINE - len(kept)]
            if end >= 0:
                self._at = end + 1
                return bytes(kept)
            self._at = len(self._buffer)
            if not self._fill():
                raise BrokenError("ends too early")

    def ahead(self, size: int) -> bytes:
        """The next bytes, at most `size`, without moving on."""
        while len(self._buffer) - self._at < size and (data := self._reader.read(_CHUNK)):
            self._before += self._at
            self._buffer, self._at = self._buffer[self._at :] + data, 0
        return self._buffer[self._at : self._at + size]

    def _fill(self) -> bool:
        self._before += len(self._buffer)
        self._buffer = self._reader.read(_CHUNK)
        self._at = 0
        return bool(self._buffer)
