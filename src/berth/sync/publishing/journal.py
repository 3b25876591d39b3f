"""How far is a publication? Written down while bytes move, so that people see it and a restart loses nothing.

What is whole at the target is the target's own fact and is asked of it again; this is what people are told about it,
and where they stop it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from berth.db.engine import Database
from berth.errors import Unavailable
from berth.sync.flow import lasting
from berth.sync.publishing import queries
from berth.sync.resuming.kept import KeptUploads

BEAT_SECONDS: Final = 2.0


class PlaceJournal:
    """The journal of one place (sync/flow.py)."""

    def __init__(
        self, db: Database, placement: int, *, uploads: KeptUploads, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._db = db
        self._placement = placement
        self._uploads = uploads
        self._sleep = sleep
        self._blobs = 0
        self._done = 0
        self._moving = 0
        self._held = False

    async def wanted(self) -> bool:
        return not self._held

    async def planned(self, blobs: int, size: int) -> None:
        async def write() -> None:
            async with self._db.transaction() as conn:
                await queries.add_plan(conn, self._placement, blobs=blobs, size=size)

        await lasting(write, sleep=self._sleep)

    async def whole(self, digest: str, *, size: int, sent: int) -> None:
        self._blobs += 1
        self._done += size
        # Whatever went for it, it was told to be on its way once, from its first byte to its last.
        self._moving = max(0, self._moving - (size if sent else 0))
        await lasting(lambda: self._write(sent), sleep=self._sleep)

    async def naming(self) -> None:
        return None  # what turns from here on is withdrawn (record.py)

    async def unfinished(self, repository: str, digest: str) -> str | None:
        return await self._uploads.find(repository, digest)

    async def keep(self, repository: str, digest: str, *, session: str | None, offset: int) -> None:
        await self._uploads.keep(repository, digest, session=session, offset=offset)

    def moved(self, count: int) -> None:
        """So many bytes of a blob are on their way."""
        self._moving += count

    async def watch(self) -> None:
        """Every now and then: how much has moved, and whether to go on. Blobs can take hours."""
        while not self._held:
            await asyncio.sleep(BEAT_SECONDS)
            with suppress(Unavailable):  # it comes back, or the work itself notices
                await self._write(0)

    async def _write(self, sent: int) -> None:
        async with self._db.transaction() as conn:
            self._held |= await queries.note_progress(
                conn, self._placement, blobs=self._blobs, done=self._done + self._moving, sent=sent
            )


@asynccontextmanager
async def watched(
    db: Database, placement: int, *, uploads: KeptUploads, sleep: Callable[[float], Awaitable[None]]
) -> AsyncIterator[PlaceJournal]:
    """The journal of a place while it is copied to."""
    journal = PlaceJournal(db, placement, uploads=uploads, sleep=sleep)
    watch = asyncio.create_task(journal.watch())
    try:
        yield journal
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
