"""How do many readers share one fetch? They follow the growing file, and its end only once the digest agrees.

A reader is bound to the attempt it has been given bytes of: were another attempt's bytes put behind them, nobody would
have verified the whole. An attempt that turns out wrong breaks its readers off; those who have seen nothing go on with
the next attempt and never know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

from berth.adapters.stores.contract import BlobStore
from berth.errors import BerthError, BlobUnknown

# The end of a blob is held back until the whole is verified; one no larger than this goes out verified or not at all.
HELD_BACK: Final = 1 << 20


class Attempt:
    """One upload in the depot that grows towards a blob.

    Attributes:
        received: bytes of it that can be read.
        failed: why it came to nothing.
    """

    def __init__(self, location: str, received: int = 0) -> None:
        self.location = location
        self.received = received
        self.failed: BerthError | None = None


class Flight:
    """One blob on its way into the depot, and those who wait for it.

    Attributes:
        scope: the project that has yet to show that it holds the blob, if it flies for one: only that project's
            registries are asked, and what others bring in is not for its readers.
        final: where the verified blob lies, once it does.
        error: why it did not come.
        readers: how many wait; without any it may be given up.
    """

    def __init__(self, digest: str, size: int, store: BlobStore, *, scope: int | None = None) -> None:
        self.digest = digest
        self.scope = scope
        # Fetches for a project that has shown nothing are rows of their own.
        self.row = digest if scope is None else f"{digest} {scope}"
        self.size = size
        self.final: str | None = None
        self.error: BaseException | None = None
        self.readers = 0
        self.attempt: Attempt | None = None
        self.good: Attempt | None = None
        self.task: asyncio.Task[None] | None = None
        self._store = store
        self._event = asyncio.Event()

    def changed(self) -> None:
        """Wake everybody who waits."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float | None = None) -> None:
        """Until something changes, or so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)

    def begin(self, location: str, received: int = 0) -> Attempt:
        """A new attempt; the former one, if any, has failed."""
        self.attempt = Attempt(location, received)
        self.changed()
        return self.attempt

    def fail(self, attempt: Attempt, error: BerthError) -> None:
        """An attempt came to nothing: said before its file goes."""
        attempt.failed = error
        if self.attempt is attempt:
            self.attempt = None
        self.changed()

    def land(self, location: str) -> None:
        """The verified blob is in its place."""
        self.final, self.good = location, self.attempt
        self.changed()

    def crash(self, error: BaseException) -> None:
        """It will not come."""
        self.error = error
        self.changed()

    async def landed(self) -> str:
        """Where the verified blob lies. Raises what kept it from coming."""
        while self.final is None:
            if self.error is not None:
                raise self.error
            await self.wait()
        return self.final

    async def follow(self) -> AsyncGenerator[bytes, None]:
        """The bytes as they come, the last ones verified. Raises what kept them from coming, or came instead."""
        position = 0
        bound: Attempt | None = None
        while bound is None or self.final is None or bound is not self.good:
            if bound is not None and bound.failed is not None:
                raise bound.failed
            if self.error is not None:
                raise self.error
            if bound is None and self.final is not None:
                break
            source = bound or self.attempt
            ready = 0 if source is None else min(source.received, self.size - HELD_BACK)
            if source is None or ready <= position:
                await self.wait()
                continue
            try:
                async for piece in self._store.read(source.location, start=position, length=ready - position):
                    bound = source
                    position += len(piece)
                    yield piece
            except BlobUnknown:
                # It has just moved to its place, or failed: either is said in a moment.
                await self.wait(0.05)
        if position < self.size:
            async for piece in self._store.read(self.final or "", start=position, length=self.size - position):
                yield piece
