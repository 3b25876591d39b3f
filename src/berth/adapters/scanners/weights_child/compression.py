"""How is a compressed stream read? Recognised by its first bytes; bounded in what it may expand to."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any

import zstandard

from berth.adapters.scanners.weights_child.content import Readable
from berth.adapters.scanners.weights_child.findings import Findings

_CHUNK = 64 << 10
_BLOCK = 1 << 20
_ZSTD_WINDOW = 128 << 20


class UnreadableError(Exception):
    """Bytes that are not what their first bytes promise, or end too early. Never leaves the child."""


class BombError(UnreadableError):
    """A stream that expands beyond all measure."""


def sniff(head: bytes) -> str | None:
    """gzip, zstd, bzip2, xz, lzma or zlib; None for anything else."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return "zstd"
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if head.startswith(b"\x5d\x00\x00") and len(head) > 13 and head[5:13] == b"\xff" * 8:
        return "lzma"
    if len(head) > 2 and head[0] == 0x78 and (head[0] << 8 | head[1]) % 31 == 0 and not head[1] & 0x20:
        return "zlib"
    return None


class Decompressed:
    """Reader of what a compressed stream holds, all its members and frames one after the other.

    `read` raises UnreadableError for damaged data, BombError and LimitExceededError at the limits. Every output
    byte is given to `observe` (a hash, say) in order.
    """

    def __init__(self, kind: str, source: Readable, findings: Findings, observe: Callable[[bytes], Any] | None = None):
        self._kind, self._source, self._findings, self._observe = kind, source, findings, observe
        self._taken = self._given = 0
        self._block, self._at = b"", 0
        self._pending = b""
        self._finished = False
        self._zstd: Any = None
        self._engine: Any = None
        if kind == "zstd":
            # The reader object drains large outputs piece by piece, which `decompressobj` can't.
            engine = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
            self._zstd = engine.stream_reader(io.BufferedReader(_Counted(self), _CHUNK), read_across_frames=True)
        else:
            self._engine = _engine(kind)

    def read(self, size: int, /) -> bytes:
        if self._at == len(self._block):
            self._block, self._at = self._next_block(), 0
        data = self._block[self._at : self._at + size]
        self._at += len(data)
        return data

    def _next_block(self) -> bytes:
        # Large blocks: the engines copy what is left of their input at every call.
        try:
            data = bytes(self._zstd.read(_BLOCK) if self._zstd is not None else self._read(_BLOCK))
        except (zlib.error, OSError, lzma.LZMAError, EOFError, zstandard.ZstdError) as error:
            raise UnreadableError(f"damaged {self._kind} data: {error}") from error
        self._given += len(data)
        limits = self._findings.limits
        if self._given > limits.ratio_from_bytes and self._given > limits.ratio * max(1, self._taken):
            raise BombError(f"{self._taken} bytes expand to more than {self._given}")
        self._findings.unpack(len(data))
        if self._observe is not None and data:
            self._observe(data)
        return data

    def take(self, size: int) -> bytes:
        """Compressed bytes, counted."""
        data = self._source.read(size)
        self._taken += len(data)
        return data

    def _read(self, size: int) -> bytes:
        while not self._finished:
            if self._engine.eof:
                rest = self._engine.unused_data or self.take(_CHUNK)
                if not self._next_member(rest):
                    break
                continue
            source = self._pending if self._pending else (b"" if self._buffered() else self.take(_CHUNK))
            at_end = not source and not self._buffered()
            data: bytes = self._engine.decompress(source, size)
            if at_end and not data and not self._engine.eof:
                raise EOFError("ends too early")
            self._pending = getattr(self._engine, "unconsumed_tail", b"")
            if data:
                return data
        return b""

    def _buffered(self) -> bool:
        # bz2 and lzma keep their input inside; zlib hands it back as `unconsumed_tail`.
        return not getattr(self._engine, "needs_input", True)

    def _next_member(self, rest: bytes) -> bool:
        """Go on with the next member, if there is one; zero padding after the last is allowed."""
        while rest and not rest.strip(b"\0"):
            rest = self.take(_CHUNK)
        if not rest or self._kind == "zlib":
            self._finished = True
            return False
        if self._kind in ("gzip", "bzip2", "xz") and len(rest) < 16:
            rest += self.take(_CHUNK)
        if sniff(rest) != self._kind:
            raise UnreadableError(f"something else follows the {self._kind} data")
        self._engine = _engine(self._kind)
        self._pending = rest
        return True


class _Counted(io.RawIOBase):
    """The compressed side, as zstandard wants it."""

    def __init__(self, owner: Decompressed) -> None:
        super().__init__()
        self._owner = owner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._owner.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _engine(kind: str) -> Any:
    if kind == "gzip":
        return zlib.decompressobj(wbits=31)
    if kind == "zlib":
        return zlib.decompressobj(wbits=15)
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor()
