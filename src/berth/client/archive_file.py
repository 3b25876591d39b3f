"""What is in an archive on this machine's disk? Its headers are read in one pass, blobs only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from berth.errors import InvalidInput
from berth.oci import archive
from berth.oci import digest as digests
from berth.oci.archive import BLOCK, Header, refused
from berth.oci.archive_index import MAX_INDEX_BYTES, Contents
from berth.oci.documents import MAX_BYTES

READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Place:
    """Where a blob lies in the file."""

    digest: str
    offset: int
    size: int


@dataclass(frozen=True)
class ArchiveFile:
    """An archive that was read through: what it names, its first bytes (up to the first blob), and its blobs."""

    path: Path
    contents: Contents
    head: int
    blobs: tuple[Place, ...]

    def sizes(self) -> dict[str, int]:
        return {blob.digest: blob.size for blob in self.blobs}

    def part(self, wanted: Container[str]) -> Iterator[bytes]:
        """An archive with all manifests and, of the blobs, only these."""
        with self.path.open("rb") as file:
            yield from _read(file, 0, self.head)
            for blob in self.blobs:
                if blob.digest in wanted:
                    # A blob's own header, extended or not, is written anew: it has one form only.
                    entries = [archive.Entry(archive.name_of(blob.digest), blob.size, digest=blob.digest)]
                    for piece in archive.segments(entries):
                        if isinstance(piece, archive.Stretch):
                            yield from _read(file, blob.offset, blob.size)
                        elif piece != archive.END:
                            yield piece
            yield archive.END

    def part_size(self, wanted: Container[str]) -> int:
        """Bytes of `part`."""
        entries = [
            archive.Entry(archive.name_of(blob.digest), blob.size, digest=blob.digest)
            for blob in self.blobs
            if blob.digest in wanted
        ]
        return self.head + archive.total_size(entries)

    def verify(self, advance: Callable[[int], None] = lambda _: None) -> None:
        """Compare every blob with its digest. Raises ArchiveInvalid naming the damaged one."""
        with self.path.open("rb") as file:
            for blob in self.blobs:
                algorithm = digests.parse(blob.digest).algorithm
                hasher = digests.new_hasher(algorithm)
                for piece in _read(file, blob.offset, blob.size):
                    hasher.update(piece)
                    advance(len(piece))
                if f"{algorithm}:{hasher.hexdigest()}" != blob.digest:
                    raise refused(f"{blob.digest} has other bytes")
                if b"".join(_read(file, blob.offset + blob.size, archive.padding(blob.size))).strip(b"\0"):
                    raise refused(f"{blob.digest} is longer than its header says")


def open_archive(path: Path) -> ArchiveFile:
    """Read an archive through, blobs unread.

    Raises:
        InvalidInput: there is no such file. ArchiveInvalid: it is no archive of an export, or cut off.
    """
    try:
        with path.open("rb") as file:
            return _Reader(path, file).whole()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = path.stat().st_size

    def whole(self) -> ArchiveFile:
        marker = self._header()
        if marker is None or marker.name != "oci-layout" or self._document(marker, 1024) != archive.MARKER:
            raise refused("It does not begin with the file oci-layout")
        index = self._header()
        if index is None or index.name != "index.json":
            raise refused("index.json does not come second")
        contents = Contents.begin(self._document(index, MAX_INDEX_BYTES))
        while True:
            head = self._file.tell()
            header = self._header()
            if header is None or header.digest is None or contents.expects(header.digest) is None:
                break
            contents.add(header.digest, self._document(header, MAX_BYTES))
        contents.finish()
        blobs: dict[str, Place] = {}
        while header is not None:
            if header.digest is None or contents.blobs.get(header.digest) != header.size:
                raise refused(f"{header.name} comes where only blobs of its versions may come")
            if header.digest in blobs:
                raise refused(f"{header.digest} comes twice")
            blobs[header.digest] = Place(header.digest, self._file.tell(), header.size)
            self._file.seek(header.size + archive.padding(header.size), 1)
            header = self._header()
        if len(contents.blobs) - len(blobs) != contents.left_out:
            raise refused(f"{len(contents.blobs) - len(blobs)} blobs are missing from it")
        return ArchiveFile(self._path, contents, head, tuple(blobs.values()))

    def _header(self) -> Header | None:
        block = self._exactly(BLOCK)
        size = archive.extension_size(block)
        if size is not None:
            records = self._exactly(size)
            self._exactly(archive.padding(size))
            return archive.extended(self._exactly(BLOCK), records)
        header = archive.header_of(block)
        if header is None and self._exactly(BLOCK).strip(b"\0"):
            raise refused("Something stands behind its end")
        return header

    def _document(self, header: Header, limit: int) -> bytes:
        if header.size > limit:
            raise refused(f"{header.name} has {header.size} bytes")
        body = self._exactly(header.size)
        if self._exactly(archive.padding(header.size)).strip(b"\0"):
            raise refused(f"{header.name} is longer than its header says")
        return body

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise refused(f"It ends after {self._size} bytes, before its end")
        return data


def _read(file: BinaryIO, offset: int, count: int) -> Iterator[bytes]:
    file.seek(offset)
    while count:
        piece = file.read(min(READ_BYTES, count))
        if not piece:
            raise refused("It has become shorter while it was read")
        count -= len(piece)
        yield piece
