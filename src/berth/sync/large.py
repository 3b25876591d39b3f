"""How does a large blob travel, so that a break in its middle costs little? With its way back and its place remembered.

A registry that can goes on where the target says it is (adapters/registries/contract.py, `Resumable`); any other reads
it once, like a small one. What that guarantees: docs/decisions/0027.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from berth.adapters.registries.contract import Registry
from berth.errors import IntegrityError
from berth.oci.descriptor import Descriptor
from berth.sync.depot import DepotRegistry
from berth.sync.flow import Flow, Journal, Progress, go_on

# How old what is written down may be. A fast copy would otherwise write to the database as often as it sends a chunk.
KEEP_SECONDS: Final = 0.25
# What passes at once where the rate is limited; more than the 5 MiB that a part must have in S3.
BURST_BYTES: Final = 8 << 20


async def bytes_of(
    source: Registry, repository: str, blob: Descriptor, *, offset: int = 0, journal: Journal
) -> AsyncGenerator[bytes, None]:
    """A blob as the source gives it, from `offset`, not verified.

    Raises: what `Registry.blob` raises; IntegrityError for more bytes than there should be; Cancelled.
    """
    position = offset
    async for piece in source.blob(repository, blob.digest, offset=offset):
        await go_on(journal)
        position += len(piece)
        if position > blob.size:
            raise IntegrityError(f"The source answers more than the {blob.size} bytes of {blob.digest}.")
        yield piece


class LargeBlob:
    """One blob on its way, in as many tries as it takes (`Resumable`).

    Attributes:
        bytes_sent: what went to the target, in all tries.
    """

    def __init__(
        self,
        source: Registry,
        source_repository: str,
        target_repository: str,
        blob: Descriptor,
        *,
        flow: Flow,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._source = source
        self._source_repository = source_repository
        self._repository = target_repository
        self._blob = blob
        self._flow = flow
        self._journal = journal
        self._progress = progress
        self.bytes_sent = 0
        # How far the bytes were told in this try, and in any.
        self._told = 0
        self._furthest = 0
        # Of the last try here; the journal's may be older, or of another process.
        self._session: str | None = None
        self._kept_at: float | None = None
        self._reading: AsyncGenerator[bytes, None] | None = None

    @property
    def burst(self) -> int | None:
        """Small where the rate is limited: the wait is between two chunks, where every registry survives a break."""
        return None if self._flow.limits.bytes_per_second is None else BURST_BYTES

    async def send(self, target: Registry) -> None:
        """One try; raises what `Registry.push_blob` raises, and Cancelled."""
        self._told = 0
        try:
            await target.push_blob(self._repository, self._blob.digest, size=self._blob.size, chunks=self)
        finally:
            if self._reading is not None:
                await self._reading.aclose()
                self._reading = None

    # -- the bytes

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """All of them, for a registry that reads them once."""
        self._reading = self._all()
        return self._reading

    async def _all(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self.at(0)) as pieces:
            async for piece in pieces:
                await self.let(len(piece))
                self.left(len(piece))
                self.passed(len(piece))
                yield piece

    def at(self, offset: int) -> AsyncGenerator[bytes, None]:
        return bytes_of(self._source, self._source_repository, self._blob, offset=offset, journal=self._journal)

    async def let(self, count: int) -> None:
        await go_on(self._journal)
        await self._flow.pass_bytes(count)

    def left(self, count: int) -> None:
        self.bytes_sent += count

    def passed(self, count: int) -> None:
        self._told += count
        fresh = self._told - self._furthest
        if fresh > 0:
            self._furthest = self._told
            self._progress(fresh)

    async def reread(self, count: int) -> None:
        if not isinstance(self._source, DepotRegistry):
            # It comes over a line that the limit may be there for.
            await self._flow.pass_bytes(count)

    # -- the session

    async def find(self) -> str | None:
        return self._session or await self._journal.unfinished(self._repository, self._blob.digest)

    async def keep(self, session: str, offset: int) -> None:
        self._session = session
        now = self._flow.clock()
        if self._kept_at is None or now - self._kept_at >= KEEP_SECONDS:
            self._kept_at = now
            await self._journal.keep(self._repository, self._blob.digest, session=session, offset=offset)

    async def forget(self) -> None:
        self._session = self._kept_at = None
        await self._journal.keep(self._repository, self._blob.digest, session=None, offset=0)
