"""How is an archive read while it arrives? Strictly in its order, a piece at a time, nothing kept but manifests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from berth.oci import archive
from berth.oci.archive import BLOCK, Header, refused
from berth.oci.archive_index import MAX_INDEX_BYTES, Contents
from berth.oci.documents import MAX_BYTES

# Other programs round a tar up to records of 10 KiB; more than that after the end is no padding.
_AFTER_THE_END: Final = 64 * 1024


class Incoming:
    """The bytes of an archive. What it yields of a blob is not verified: whoever stores it compares the digest."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.received = 0

    async def head(self) -> tuple[Contents, Header | None]:
        """Everything before the first blob, and that blob's header (None: there is no blob).

        Raises:
            ArchiveInvalid: it is no archive of an export, or damaged.
        """
        contents = await self.index()
        return contents, await self.manifests(contents)

    async def index(self) -> Contents:
        """What the archive says it holds, before any of it is read. Raises ArchiveInvalid."""
        marker = await self.next_header()
        if marker is None or marker.name != "oci-layout" or marker.size != len(archive.MARKER):
            raise refused("It does not begin with the file oci-layout")
        if await self.document(marker, 1024) != archive.MARKER:
            raise refused("It is an image layout of another version")
        index = await self.next_header()
        if index is None or index.name != "index.json":
            raise refused("index.json does not come second")
        return Contents.begin(await self.document(index, MAX_INDEX_BYTES))

    async def manifests(self, contents: Contents) -> Header | None:
        """The manifests that follow `index.json`, into `contents`; the first blob's header (None: there is no blob)."""
        while True:
            header = await self.next_header()
            size = None if header is None or header.digest is None else contents.expects(header.digest)
            if header is None or header.digest is None or size is None:
                contents.finish()
                return header
            contents.add(header.digest, await self.document(header, MAX_BYTES))

    async def next_header(self) -> Header | None:
        """The header of the next file; None at the archive's end, after which nothing follows."""
        block = await self._exactly(BLOCK)
        size = archive.extension_size(block)
        if size is not None:
            records = await self._exactly(size)
            await self._skip_padding(size)
            return archive.extended(await self._exactly(BLOCK), records)
        header = archive.header_of(block)
        if header is None:
            await self._end()
        return header

    async def document(self, header: Header, limit: int) -> bytes:
        """A small file whole."""
        if header.size > limit:
            raise refused(f"{header.name} has {header.size} bytes")
        body = await self._exactly(header.size)
        await self._skip_padding(header.size)
        return body

    async def blob(self, header: Header) -> AsyncGenerator[bytes, None]:
        """A file piece by piece; it must be read to its end before anything else is."""
        left = header.size
        while left:
            piece = await self._piece(left)
            left -= len(piece)
            yield bytes(piece)
        await self._skip_padding(header.size)

    async def _end(self) -> None:
        if (await self._exactly(BLOCK)).strip(b"\0"):
            raise refused("Something stands behind its end")
        trailing = 0
        while self._rest or await self._more():
            trailing += len(self._rest)
            if trailing > _AFTER_THE_END or bytes(self._rest).strip(b"\0"):
                raise refused("Something stands behind its end")
            self._rest = memoryview(b"")

    async def _skip_padding(self, size: int) -> None:
        if (await self._exactly(archive.padding(size))).strip(b"\0"):
            raise refused("A file is longer than its header says")

    async def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            parts += await self._piece(count - len(parts))
        return bytes(parts)

    async def _piece(self, limit: int) -> memoryview:
        if not self._rest and not await self._more():
            raise refused(f"It ends after {self.received} bytes, before its end")
        piece, self._rest = self._rest[:limit], self._rest[limit:]
        return piece

    async def _more(self) -> bool:
        async for chunk in self._chunks:
            if chunk:
                self._rest = memoryview(chunk)
                self.received += len(chunk)
                return True
        return False
