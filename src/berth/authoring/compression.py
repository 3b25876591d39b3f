"""How is a layer compressed so that everyone gets the same bytes? gzip by default, zstd when asked for, or not at all.

A stream is cut into pieces of `CHUNK_BYTES`, so that cores work side by side; what comes out depends neither on their
number nor on how the input arrived. zlib builds may differ in the bytes they choose (zlib-ng does): `compressor_id` is
made from what this machine's zlib does with a fixed sample, so two machines with one id write the same layers. zstd
promises the same bytes for one version of its library only, so the version is its id.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import BinaryIO, Literal, Protocol

from berth.errors import IntegrityError, SetupError

Compression = Literal["gzip", "zstd", "none"]
GZIP_LEVEL = 6
ZSTD_LEVEL = 6
CHUNK_BYTES = 4 * 1024 * 1024
# deflate looks back no further than this.
_WINDOW_BYTES = 32 * 1024
# magic, deflate, no flags, time 0, no extra flags, unknown system: nothing of this machine.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_THREADS = max(1, min(os.cpu_count() or 1, 8))


def compressor_id(compression: Compression) -> str:
    """What the compressed bytes depend on beside the tar, such as "gzip-6-0123456789ab"."""
    if compression == "gzip":
        return f"gzip-{GZIP_LEVEL}-{_gzip_behaviour()}"
    if compression == "zstd":
        return f"zstd-{ZSTD_LEVEL}-{'.'.join(str(n) for n in _zstandard().ZSTD_VERSION)}"
    return "none"


@cache
def _gzip_behaviour() -> str:
    """A fingerprint of the choices this zlib makes: matches near and far, literals, runs, block ends."""
    sample = b"".join(b"%d %x;" % (i * i % 9973, i * 2654435761 % 2**32) for i in range(10_000)) + bytes(50_000)
    return hashlib.sha256(b"".join(compress_stream([sample], "gzip"))).hexdigest()[:12]


def compress_stream(pieces: Iterable[bytes], compression: Compression) -> Iterator[bytes]:
    """The compressed form of a stream, in pieces; memory stays at a few chunks."""
    if compression == "gzip":
        return _gzip(_chunks(pieces))
    if compression == "zstd":
        return _zstd(_chunks(pieces))
    return iter(pieces)


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of CHUNK_BYTES; the last one may be shorter."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer[:CHUNK_BYTES])
            del buffer[:CHUNK_BYTES]
    if buffer:
        yield bytes(buffer)


def _gzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """One gzip member; each chunk is deflated by itself, with the end of the one before as its dictionary."""
    check = size = 0
    before = b""
    waiting: deque[Future[bytes]] = deque()
    yield _GZIP_HEADER
    with ThreadPoolExecutor(_THREADS) as pool:
        for chunk in chunks:
            check = zlib.crc32(chunk, check)
            size += len(chunk)
            waiting.append(pool.submit(_deflate, chunk, before))
            before = chunk[-_WINDOW_BYTES:]
            if len(waiting) > 2 * _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    # An empty last block ends the stream.
    yield b"\x03\x00" + struct.pack("<II", check, size & 0xFFFFFFFF)


def _deflate(chunk: bytes, before: bytes) -> bytes:
    method = (GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_DEFAULT_STRATEGY)
    deflate = zlib.compressobj(*method, before) if before else zlib.compressobj(*method)
    return deflate.compress(chunk) + deflate.flush(zlib.Z_SYNC_FLUSH)


def _zstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    zstandard = _zstandard()
    # No threads of its own: with them the bytes would be others.
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=0, write_checksum=True).compressobj()
    for chunk in chunks:
        if out := compressor.compress(chunk):
            yield out
    yield compressor.flush()


class Readable(Protocol):
    """Anything that can be read from."""

    def read(self, count: int, /) -> bytes: ...


def open_zstd(stream: Readable) -> BinaryIO:
    """Decompresses a zstd stream frame after frame. Raises SetupError without the library; reading: IntegrityError."""
    return io.BufferedReader(_Unzstd(stream), 1024 * 1024)


class _Unzstd(io.RawIOBase):
    def __init__(self, source: Readable) -> None:
        self._zstandard = _zstandard()
        # A window larger than what zstd itself allows without being asked is refused by the library.
        self._reader = self._zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            count: int = self._reader.readinto(buffer)
        except self._zstandard.ZstdError as error:
            raise IntegrityError(f"A layer is damaged: {error}.") from error
        return count


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise SetupError(
            "zstd needs the Python package zstandard.", hint="`pip install zstandard`, or use --compression gzip."
        ) from error
    return zstandard
