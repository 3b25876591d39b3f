"""What is sent in an upload? A blob's bytes, hashed once, readable from anywhere, and who remembers how far it is.

When the source turns out not to have the digest, the last piece is held back, so the registry sees a broken request and
can never take the wrong bytes for the right ones.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

from berth.errors import IntegrityError
from berth.wire.hashing import RunningDigest

# Opens the blob's bytes from an offset; each call starts anew.
OpenAt = Callable[[int], AsyncIterator[bytes]]


class Keeper(Protocol):
    """Remembers an upload in several requests beyond this process, and lets its bytes pass."""

    async def find(self) -> str | None:
        """The session that an earlier try left at the registry."""
        ...

    async def keep(self, session: str, offset: int) -> None:
        """The registry has so many bytes, and goes on under this address (which may be good for writing: a secret)."""
        ...

    async def forget(self) -> None:
        """There is nothing to go on with any more."""
        ...

    async def let(self, count: int) -> None:
        """Waits until so many bytes may go to the registry. Raises to end the upload."""
        ...

    def left(self, count: int) -> None:
        """So many bytes go to the registry now; those that are sent again too."""
        ...

    async def reread(self, count: int) -> None:
        """So many bytes that the registry has already are read again, for the digest. Raises to end the upload."""
        ...


@dataclass(frozen=True)
class Upload:
    """What is to be sent.

    Args:
        mount_from: repositories of the same registry that may hold the blob already.
        chunk_bytes: send in chunks of this size, resumed after a failure; None = in one PUT.
        restartable: whether `open` can be called again; without it a broken upload is not repeated.
        sent: told the number of bytes as they leave (bytes sent again are not counted again).
        absent: the registry has just said that it lacks the blob, so it is not asked first.
        tells: it says so when an upload begins, asked to mount the blob from the repository itself: a request less.
        keeper: remembers the chunks' session, so that another process can go on with it.
        or_whole: a registry that refuses chunks gets the blob in one PUT instead.
    """

    digest: str
    size: int
    open: OpenAt
    mount_from: Sequence[str] = ()
    chunk_bytes: int | None = None
    restartable: bool = True
    sent: Callable[[int], None] = lambda _: None
    absent: bool = False
    tells: bool = False
    keeper: Keeper | None = None
    or_whole: bool = False


class Sending:
    """The bytes to send, hashed once however often parts of them are read again. Close it at the end."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.running = RunningDigest(upload.digest)
        # What is being read, its place, and what was read beyond the last range.
        self._stream: AsyncIterator[bytes] | None = None
        self._at = 0
        self._rest = b""

    async def pieces(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end`; raises IntegrityError before the last piece of a wrong source."""
        upload = self.upload
        held: bytes | None = None
        if start < end or upload.size == 0:
            await self._seek(start)
        while self._at < end:
            chunk = await self._next(end - self._at)
            if not chunk:
                break
            if held is not None:
                self._count(held)
                yield held
            held = chunk
        if start < end and self._at != end:
            raise self._changed()
        if end == upload.size:
            self.check()
        if held is not None:
            self._count(held)
            yield held

    async def whole(self) -> AsyncGenerator[bytes, None]:
        """All bytes, for one request; as slowly as the keeper says."""
        async with aclosing(self.pieces(0, self.upload.size)) as pieces:
            async for piece in pieces:
                if self.upload.keeper is not None:
                    await self.upload.keeper.let(len(piece))
                yield piece

    async def skip(self, offset: int) -> None:
        """Makes sure that everything before `offset`, which is at the registry already, is in the digest."""
        if offset <= self.running.count:
            return
        await self._seek(self.running.count)
        while self._at < offset:
            chunk = await self._next(offset - self._at)
            if not chunk:
                raise self._changed()
            if self.upload.keeper is not None:
                await self.upload.keeper.reread(len(chunk))

    def check(self) -> None:
        """Raises IntegrityError unless the source, read to its end, has the digest."""
        if self.running.count != self.upload.size or not self.running.matches():
            raise self._changed()

    async def close(self) -> None:
        stream, self._stream, self._rest = self._stream, None, b""
        if isinstance(stream, AsyncGenerator):
            with suppress(RuntimeError):  # it is being read: the request that does so closes it
                await stream.aclose()

    async def _seek(self, offset: int) -> None:
        """A chunk begins where the last one ended, so the source is opened once as long as nothing breaks."""
        if self._stream is None or self._at != offset:
            await self.close()
            self._stream, self._at = aiter(self.upload.open(offset)), offset

    async def _next(self, most: int) -> bytes:
        """The next bytes, at most so many, with all that is new in the digest; empty at the end of the source."""
        assert self._stream is not None  # noqa: S101 - for the types; `_seek` went before
        read, self._rest = self._rest, b""
        if not read:
            try:
                read = await anext(self._stream, b"")
            except BaseException:
                self._stream = None  # a generator that raised is at its end
                raise
        chunk, self._rest = read[:most], read[most:]
        seen = self.running.count
        if self._at + len(chunk) > seen >= self._at:
            fresh = memoryview(chunk)[seen - self._at :]
            await self.running.update(fresh)
            self.upload.sent(len(fresh))
        self._at += len(chunk)
        return chunk

    def _count(self, piece: bytes) -> None:
        if self.upload.keeper is not None:
            self.upload.keeper.left(len(piece))

    def _changed(self) -> IntegrityError:
        return IntegrityError(
            f"The content of {self.upload.digest} changed while it was sent.",
            hint="Build the version again, then push.",
            detail={"digest": self.upload.digest},
        )
