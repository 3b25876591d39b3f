"""How do files become a layer whose bytes depend on nothing but the files? (mission X2.)

A layer is a tar: entries sorted by name, owner 0, modification time 0, modes 0755 and 0644 from the executable bit
alone, PAX headers only where ustar has no room. It is compressed with `COMPRESSOR`. The digest of the tar (`diff_id`)
is the same on any machine; that of the compressed blob on any machine whose zlib makes the same choices.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from berth.authoring.hashing import BUFFER_BYTES
from berth.authoring.repository import LocalRepository
from berth.errors import IntegrityError, InvalidInput
from berth.oci import digest as digests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor

COMPRESSOR = "zlib"
COMPRESSION_LEVEL = 6
LAYER_KIND = "io.xumi.layer"
# magic, deflate, no flags, time 0, no extra flags, unknown system: nothing of this machine.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_BLOCK = 512


def compressor_id() -> str:
    """What the compressed bytes depend on beside the tar."""
    return f"{COMPRESSOR}-{zlib.ZLIB_RUNTIME_VERSION}-{COMPRESSION_LEVEL}"


@dataclass(frozen=True)
class Entry:
    """One file, folder or symbolic link of a layer; `name` is its path in the image without a leading slash."""

    name: str
    kind: Literal["file", "folder", "link"]
    source: Path | bytes = b""
    size: int = 0
    executable: bool = False
    target: str = ""
    owner: int = 0


@dataclass(frozen=True)
class Layer:
    """A stored layer: its blob, and the digest of the tar inside."""

    kind: str
    descriptor: Descriptor
    diff_id: str
    tar_size: int
    reused: bool = False


def file_entry(name: str, source: Path | bytes) -> Entry:
    """A file from disk (size and executable bit taken from it) or from memory."""
    if isinstance(source, bytes):
        return Entry(name=name, kind="file", source=source, size=len(source))
    status = source.stat()
    return Entry(name=name, kind="file", source=source, size=status.st_size, executable=bool(status.st_mode & 0o111))


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """The entries and all folders above them, sorted by name.

    Raises:
        InvalidInput: two entries have one name.
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        other = found.get(entry.name)
        if other is not None and not (other.kind == entry.kind == "folder"):
            raise InvalidInput(f"Two entries of a layer are named {entry.name}.")
        found[entry.name] = entry
    for name in list(found):
        parts = name.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            above = found.setdefault(parent, Entry(name=parent, kind="folder"))
            if above.kind != "folder":
                raise InvalidInput(f"{name} lies below {parent}, which is no folder.")
    return [found[name] for name in sorted(found, key=lambda n: n.split("/"))]


def tar_bytes(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The tar of the entries, in pieces of bounded size. Raises IntegrityError when a file changes meanwhile."""
    written = 0
    for entry in entries:
        header = _header(entry)
        yield header
        written += len(header)
        if entry.kind != "file":
            continue
        yield from _content(entry)
        padding = -entry.size % _BLOCK
        yield bytes(padding)
        written += entry.size + padding
    yield bytes(2 * _BLOCK + (-(written + 2 * _BLOCK) % tarfile.RECORDSIZE))


def _header(entry: Entry) -> bytes:
    info = tarfile.TarInfo(entry.name)
    info.uid = info.gid = entry.owner
    info.mtime = 0
    if entry.kind == "folder":
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    elif entry.kind == "link":
        info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, entry.target
    else:
        info.type, info.mode, info.size = tarfile.REGTYPE, (0o755 if entry.executable else 0o644), entry.size
    try:
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"The file name {entry.name!r} is not UTF-8.", hint="Rename it, or list it in .xumiignore."
        ) from error


def _content(entry: Entry) -> Iterator[bytes]:
    if isinstance(entry.source, bytes):
        yield entry.source
        return
    left = entry.size
    with entry.source.open("rb") as stream:
        while left:
            piece = stream.read(min(left, BUFFER_BYTES))
            if not piece:
                break
            left -= len(piece)
            yield piece
        if left or stream.read(1):
            raise IntegrityError(f"{entry.source} was changed while it was packed.", hint="Build again.")


@dataclass
class _Compressor:
    """gzip with a fixed header. Hashes what goes in."""

    hasher: digests.Hasher = field(default_factory=lambda: digests.new_hasher("sha256"))
    size: int = 0

    def run(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        deflate = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL)
        check = 0
        yield _GZIP_HEADER
        for piece in pieces:
            self.hasher.update(piece)
            self.size += len(piece)
            check = zlib.crc32(piece, check)
            if out := deflate.compress(piece):
                yield out
        yield deflate.flush() + struct.pack("<II", check, self.size & 0xFFFFFFFF)


def pack(
    repository: LocalRepository,
    kind: str,
    entries: Iterable[Entry],
    *,
    compress: bool = True,
    annotations: Mapping[str, str] | None = None,
) -> Layer:
    """Stores a layer in the repository; one packed before with the same content is not compressed again.

    Args:
        repository: where the blob goes.
        kind: value of the annotation io.xumi.layer.
        entries: the content; order does not matter.
        compress: gzip, or a plain tar (weights do not compress).
        annotations: more annotations of the descriptor.
    """
    ordered = with_parents(entries)
    notes = {LAYER_KIND: kind, **(annotations or {})}
    if not compress:
        stored = repository.layout.write_stream(tar_bytes(ordered))
        plain = Descriptor(
            media_type=media_types.OCI_LAYER_TAR, digest=stored.digest, size=stored.size, annotations=notes
        )
        return Layer(kind=kind, descriptor=plain, diff_id=stored.digest, tar_size=stored.size)
    hasher, tar_size = digests.new_hasher("sha256"), 0
    for piece in tar_bytes(ordered):
        hasher.update(piece)
        tar_size += len(piece)
    diff_id = f"sha256:{hasher.hexdigest()}"
    key = f"{diff_id} {compressor_id()}"
    known = repository.known_layer(key)
    if known is None:
        compressor = _Compressor()
        stored = repository.layout.write_stream(compressor.run(tar_bytes(ordered)))
        if f"sha256:{compressor.hasher.hexdigest()}" != diff_id:
            raise IntegrityError(f"Files of the {kind} layer were changed while it was packed.", hint="Build again.")
        repository.remember_layer(key, stored.digest, stored.size)
    digest, size = known or (stored.digest, stored.size)
    descriptor = Descriptor(media_type=media_types.OCI_LAYER_TAR_GZIP, digest=digest, size=size, annotations=notes)
    return Layer(kind=kind, descriptor=descriptor, diff_id=diff_id, tar_size=tar_size, reused=known is not None)


class Readable(Protocol):
    def read(self, count: int, /) -> bytes: ...


def open_layer(stream: Readable) -> BinaryIO:
    """A layer's tar, whether gzipped or not; for reading from its start to its end."""
    head = stream.read(2)
    joined = _Joined(head, stream)
    if head == b"\x1f\x8b":
        return io.BufferedReader(_Gunzip(joined), BUFFER_BYTES)
    return io.BufferedReader(joined, BUFFER_BYTES)


class _Joined(io.RawIOBase):
    """Bytes already read, and the rest."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(piece) :] if self._head else b""
        buffer[: len(piece)] = piece
        return len(piece)


class _Gunzip(io.RawIOBase):
    """Decompresses member after member in bounded pieces. Raises IntegrityError for anything that is not gzip."""

    def __init__(self, source: _Joined) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._pending = b""
        self._started = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            if not self._pending:
                chunk = bytearray(64 * 1024)
                count = self._source.readinto(memoryview(chunk))
                if not count:
                    if self._started and not self._inflate.eof:
                        raise IntegrityError("A layer is cut off.")
                    return 0
                self._pending = bytes(chunk[:count])
            if self._inflate.eof:
                self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
            self._started = True
            try:
                piece = self._inflate.decompress(self._pending, len(buffer))
            except zlib.error as error:
                raise IntegrityError(f"A layer is damaged: {error}.") from error
            self._pending = self._inflate.unconsumed_tail or self._inflate.unused_data
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)
