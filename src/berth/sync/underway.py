"""A run that is being carried out: it says that it lives, notices when to stop, and writes down what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from berth.db.engine import Database
from berth.errors import BerthError, Unavailable
from berth.sync.flow import Cancelled, HeldBack, lasting
from berth.sync.journal import queries
from berth.sync.journal.queries import ItemRow, Run
from berth.sync.resuming.kept import KeptUploads

BEAT_SECONDS: Final = 2.0
# A run that took so many workers down with it, and moved nothing meanwhile, is given up.
MAX_ATTEMPTS: Final = 8
log = structlog.get_logger(__name__)


async def begin(db: Database, run_id: int, *, now: Callable[[], datetime]) -> Run | None:
    """Take up a run; None when there is nothing to do: it has ended, was cancelled before its turn, or is gone."""
    async with db.transaction() as conn:
        run = await queries.run_by_id(conn, run_id)
        if run is None or run.state not in ("queued", "running"):
            return None
        if run.cancel_requested or run.attempts >= MAX_ATTEMPTS:
            state, error = ("cancelled", None) if run.cancel_requested else ("failed", "It was interrupted too often.")
            await queries.close_items(conn, run_id, error="The run ended before its turn.")
            await queries.end_run(conn, run_id, state=state, error=error, now=now())
            return None
        await queries.begin_run(conn, run_id, now=now())
    return run


class Underway:
    """What runs of rules and imports have in common."""

    def __init__(
        self,
        db: Database,
        run_id: int,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._db = db
        self._sleep = sleep
        self._run_id = run_id
        self._now = now
        self.stopped = False

    async def through(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work and record its outcome; only the database's own failures are raised."""
        watch = asyncio.create_task(self._watch())
        error = None
        try:
            await work()
        except Cancelled:
            pass
        except BerthError as failure:
            error = str(failure)
            log.warning("sync_failed", run=self._run_id, code=failure.code, message=failure.message)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        await self.write(lambda conn: self._finish(conn, error))

    async def _watch(self) -> None:
        while not self.stopped:
            try:
                async with self._db.transaction() as conn:
                    self.stopped = await queries.beat(conn, self._run_id, now=self._now())
            except Unavailable:
                pass  # it comes back, or the work itself notices
            await asyncio.sleep(BEAT_SECONDS)

    async def settle(self, item: ItemRow, state: str, error: str) -> None:
        await self.write(lambda conn: queries.set_item(conn, item.id, state=state, error=error))

    async def sent(self, item_id: int, size: int) -> None:
        """One more blob of an item is whole at the target; `size` bytes moved for it."""
        await self.write(lambda conn: queries.item_sent(conn, item_id, size))

    async def write(self, do: Callable[[AsyncConnection], Awaitable[None]]) -> None:
        """In a transaction of its own; a database that is away for a moment fails no item."""

        async def write() -> None:
            async with self._db.transaction() as conn:
                await do(conn)

        await lasting(write, sleep=self._sleep)

    async def _finish(self, conn: AsyncConnection, error: str | None) -> None:
        if error is not None:
            state = "failed"
        elif self.stopped:
            state = "cancelled"
        else:
            state = "failed" if await queries.has_failures(conn, self._run_id) else "succeeded"
        if state != "succeeded":
            await self._close_items(conn)
        await queries.end_run(conn, self._run_id, state=state, error=error, now=self._now())

    async def _close_items(self, conn: AsyncConnection) -> None:
        run = await queries.run_by_id(conn, self._run_id)
        if run is not None and run.kind in ("run", "import"):
            await queries.close_items(conn, self._run_id, error="The run ended before its turn.")


class ItemJournal:
    """The journal of one item (sync/flow.py).

    Args:
        kept_here: asked before the version gets its name; why it must not have one, None when it may.
    """

    def __init__(
        self,
        run: Underway,
        item_id: int,
        *,
        uploads: KeptUploads | None = None,
        kept_here: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        self._run = run
        self._item_id = item_id
        self._uploads = uploads
        self._kept_here = kept_here

    async def wanted(self) -> bool:
        return not self._run.stopped

    async def planned(self, blobs: int, size: int) -> None:
        return None

    async def whole(self, digest: str, *, size: int, sent: int) -> None:
        await self._run.sent(self._item_id, sent)

    async def naming(self) -> None:
        if self._kept_here is not None and (why := await self._kept_here()) is not None:
            raise HeldBack(why)

    async def unfinished(self, repository: str, digest: str) -> str | None:
        return None if self._uploads is None else await self._uploads.find(repository, digest)

    async def keep(self, repository: str, digest: str, *, session: str | None, offset: int) -> None:
        if self._uploads is not None:
            await self._uploads.keep(repository, digest, session=session, offset=offset)
