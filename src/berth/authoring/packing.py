"""How do files become a layer whose bytes depend on nothing but the files? (mission X2.)

A layer is a tar: entries sorted by name, owner 0, modification time 0, modes 0755 and 0644 from the executable bit
alone, PAX headers only where ustar has no room. The digest of the tar (`diff_id`) is the same on any machine; that of
the compressed blob on any machine whose compressor makes the same choices, which `compression.compressor_id` names.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from berth.authoring.compression import Compression, Readable, compress_stream, compressor_id, open_zstd
from berth.authoring.hashing import BUFFER_BYTES
from berth.authoring.repository import LocalRepository
from berth.errors import IntegrityError, InvalidInput
from berth.oci import digest as digests
from berth.oci import media_types
from berth.oci.descriptor import Descriptor

LAYER_KIND = "io.xumi.layer"
LAYER_PACKAGE = "io.xumi.package"
_BLOCK = 512


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
    """A stored layer: its blob, and the digest of the tar inside; `title` tells it from others of its kind."""

    kind: str
    descriptor: Descriptor
    diff_id: str
    tar_size: int
    reused: bool = False
    title: str = ""


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


_MEDIA_TYPES = {
    "gzip": media_types.OCI_LAYER_TAR_GZIP,
    "zstd": media_types.OCI_LAYER_TAR_ZSTD,
    "none": media_types.OCI_LAYER_TAR,
}


def pack(
    repository: LocalRepository,
    kind: str,
    entries: Iterable[Entry],
    *,
    compression: Compression = "gzip",
    title: str = "",
) -> Layer:
    """Stores a layer in the repository; one packed before with the same content is not compressed again.

    Args:
        repository: where the blob goes.
        kind: value of the annotation io.xumi.layer.
        entries: the content; order does not matter.
        compression: how; "none" is a plain tar (weights do not compress).
        title: value of the annotation io.xumi.package: the one package that the layer holds.
    """
    ordered = with_parents(entries)
    notes = {LAYER_KIND: kind, **({LAYER_PACKAGE: title} if title else {})}
    media_type = _MEDIA_TYPES[compression]
    if compression == "none":
        stored = repository.layout.write_stream(tar_bytes(ordered))
        plain = Descriptor(media_type=media_type, digest=stored.digest, size=stored.size, annotations=notes)
        return Layer(kind, plain, stored.digest, stored.size, title=title)
    counted = _Counted(tar_bytes(ordered))
    for _ in counted:
        pass
    diff_id, tar_size = counted.digest, counted.size
    key = f"{diff_id} {compressor_id(compression)}"
    known = repository.known_layer(key)
    if known is None:
        again = _Counted(tar_bytes(ordered))
        stored = repository.layout.write_stream(compress_stream(again, compression))
        if again.digest != diff_id:
            raise IntegrityError(f"Files of the {kind} layer were changed while it was packed.", hint="Build again.")
        repository.remember_layer(key, stored.digest, stored.size)
    digest, size = known or (stored.digest, stored.size)
    descriptor = Descriptor(media_type=media_type, digest=digest, size=size, annotations=notes)
    return Layer(kind, descriptor, diff_id, tar_size, reused=known is not None, title=title)


def diff_id_of(entries: Iterable[Entry]) -> str:
    """The digest of the layer's tar, without storing it."""
    counted = _Counted(tar_bytes(with_parents(entries)))
    for _ in counted:
        pass
    return counted.digest


class _Counted:
    """Passes pieces on, and knows their digest and size afterwards."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self._hasher = digests.new_hasher("sha256")
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._hasher.update(piece)
            self.size += len(piece)
            yield piece

    @property
    def digest(self) -> str:
        return f"sha256:{self._hasher.hexdigest()}"


def open_layer(stream: Readable) -> BinaryIO:
    """A layer's tar, whether compressed (gzip, zstd) or not; for reading from its start to its end."""
    head = stream.read(4)
    joined = _Joined(head, stream)
    if head == b"\x28\xb5\x2f\xfd":
        return open_zstd(joined)
    if head[:2] == b"\x1f\x8b":
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
