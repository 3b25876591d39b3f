"""How do bytes that are at a registry come into the depot? One fetch per blob, whoever asks and however many (R3).

In one process readers share a `Flight`. Between processes the row of `fetches` says who fetches, and the others follow
the same growing file. No connection to the database is held while bytes flow (design §5).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

import structlog

from berth.adapters.registries.contract import Redirecting
from berth.adapters.stores.contract import BlobStore
from berth.db.engine import Database
from berth.errors import BerthError, BlobUnknown, IntegrityError, Unavailable
from berth.sync.cache import queries
from berth.sync.cache.fetch import LEASE_SECONDS, Fetch, Parts, nobody_gives
from berth.sync.cache.flight import Flight
from berth.sync.cache.health import Health
from berth.sync.cache.opened import Opened, Opener
from berth.sync.cache.queries import Held

LOOK_SECONDS: Final = 0.2
# Fetches whose readers have all gone are finished, since they mostly come back; but not any number of them.
UNATTENDED: Final = 4
REDIRECT_SECONDS: Final = 60
# How often bytes may leave the depot again between their coming and their being read.
RACES: Final = 3
TOGETHER: Final = 2
log = structlog.get_logger(__name__)


class Fetcher:
    """Brings blobs into the depot. One per process.

    Args:
        remote: opens a registry of the table by its name; None when there is none of that name.
        bounded: the depot has a bound, so that what comes in may have to make room.
    """

    def __init__(
        self,
        db: Database,
        store: BlobStore,
        *,
        remote: Opener | None,
        clock: Callable[[], datetime],
        health: Health | None = None,
        bounded: bool = False,
    ) -> None:
        self.health = health or Health()
        self._db = db
        self._store = store
        self._clock = clock
        self._parts = Parts(db, store, self.health, Opened(remote), clock, secrets.token_hex(8), bounded)
        self._flights: dict[str, Flight] = {}  # by row

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [flight.task for flight in self._flights.values() if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._parts.opened.close()

    # -- what readers ask

    async def stream(self, digest: str, *, repository_id: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob, as they come in; the end of it only when all of it is verified.

        Args:
            repository_id: as whose blob it is read. Models share blobs, so that errors could name places of others;
                they then name this one's only. If it has yet to show that it holds the blob, its project's registries
                are asked, whatever the depot has. None: for ourselves.

        Raises:
            Unavailable: no registry that should hold it gives it; `detail` says what each of them did.
            IntegrityError: other bytes came; what was handed out before must not be used.
            BlobUnknown: nothing here is called so.
        """
        position = 0
        try:
            async with self._aboard(digest, repository_id) as flight, aclosing(flight.follow()) as pieces:
                try:
                    async for piece in pieces:
                        position += len(piece)
                        yield piece
                    return
                except BlobUnknown:
                    if flight.final is None:
                        raise
            # It came, was verified, and has left the depot again before this reader had the rest of it.
            async for piece in self._rest(digest, repository_id, position, flight.size):
                yield piece
        except Unavailable as error:
            raise await self._as_seen_by(repository_id, digest, error) from error

    async def _as_seen_by(self, repository_id: int | None, digest: str, error: Unavailable) -> Unavailable:
        """The same error without the places of other models."""
        if repository_id is None or "registries" not in error.detail:
            return error
        async with self._db.reading() as conn:
            own = {
                (place.registry, place.repository)
                for place in await queries.places(conn, digest, repository_id=repository_id)
            }
        told = [entry for entry in error.detail["registries"] if (entry["registry"], entry["repository"]) in own]
        return nobody_gives(digest, told, error.detail["retry_after"])

    async def _rest(self, digest: str, repository_id: int | None, position: int, size: int) -> AsyncIterator[bytes]:
        for _ in range(RACES):
            location = await self.ensure(digest, repository_id=repository_id)
            try:
                async for piece in self._store.read(location, start=position, length=size - position):
                    position += len(piece)
                    yield piece
                return
            except BlobUnknown:
                continue
        raise Unavailable("The depot lets go of content as fast as it comes in.", hint="Raise BERTH_CACHE_BYTES.")

    async def ensure(self, digest: str, *, repository_id: int | None = None) -> str:
        """Where the blob lies in the depot, after fetching it if need be. Arguments and errors as of `stream`."""
        try:
            async with self._aboard(digest, repository_id) as flight:
                return await flight.landed()
        except Unavailable as error:
            raise await self._as_seen_by(repository_id, digest, error) from error

    async def hold(
        self, wanted: Collection[str], *, for_: timedelta, repository_id: int | None = None
    ) -> dict[str, str]:
        """Have all of these in the depot, and keep them there for so long: digest → location.

        What is no (longer a) blob here is left out. Arguments and errors as of `stream`.
        """
        for _ in range(RACES):
            async with self._db.reading() as conn:
                blobs = await queries.held_all(conn, wanted, repository_id=repository_id)
                away = [blob for blob in blobs if blob.location is None]
            # The largest first: the last one to come is then a small one.
            waiting = iter(sorted(away, key=lambda blob: -blob.size))
            results = await asyncio.gather(
                *(self._bring(waiting, for_, repository_id) for _ in range(TOGETHER)), return_exceptions=True
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            async with self._db.transaction() as conn:
                kept = await queries.lease(conn, wanted, until=self._clock() + for_)
            if all(blob.location is not None for blob in kept):
                return {blob.digest: blob.location for blob in kept if blob.location is not None}
        raise Unavailable("The depot lets go of content as fast as it comes in.", hint="Raise BERTH_CACHE_BYTES.")

    async def _bring(self, waiting: Iterator[Held], for_: timedelta, repository_id: int | None) -> None:
        for blob in waiting:
            await self.ensure(blob.digest, repository_id=repository_id)
            async with self._db.transaction() as conn:
                await queries.lease(conn, [blob.digest], until=self._clock() + for_)

    async def redirect(self, digest: str, *, repository_id: int) -> str | None:
        """A URL at which a reader may fetch the blob for a minute, where a registry gives one and may be used so.

        It is one of the model through which it is read: addresses name repositories, and others share its blobs.
        """
        for place in await self._parts.in_order(digest, repository_id=repository_id):
            state = self.health.state(place.registry)
            if not (place.redirect and state.healthy and state.trusted):
                continue
            try:
                async with self._parts.opened.borrow(place.registry) as registry:
                    if isinstance(registry, Redirecting):
                        return await registry.presigned(place.repository, digest, seconds=REDIRECT_SECONDS)
            except BerthError as error:
                self.health.failed(place.registry, error.message.replace(place.repository, "…"))
        return None

    async def has_place(self, digest: str) -> bool:
        """Whether some registry should hold it."""
        async with self._db.reading() as conn:
            return bool(await queries.places(conn, digest))

    # -- flights

    @asynccontextmanager
    async def _aboard(self, digest: str, repository_id: int | None) -> AsyncIterator[Flight]:
        async with self._db.reading() as conn:
            if repository_id is None:
                blob = await queries.held(conn, digest)
            else:
                blob = await queries.held_by(conn, digest, repository_id)
        if blob is None:
            raise BlobUnknown(f"There is no blob {digest}.")
        made = Flight(digest, blob.size, self._store, scope=blob.scope)
        flight = self._flights.setdefault(made.row, made)
        if flight is made:
            flight.task = asyncio.create_task(self._fly(flight))
        flight.readers += 1
        try:
            yield flight
        finally:
            flight.readers -= 1
            self._give_up_some()

    def _give_up_some(self) -> None:
        lonely = [f for f in self._flights.values() if not f.readers and f.task is not None and not f.task.done()]
        for flight in lonely[: max(0, len(lonely) - UNATTENDED)]:
            if flight.task is not None:
                flight.task.cancel()

    async def _fly(self, flight: Flight) -> None:
        try:
            while flight.final is None:
                await self._look(flight)
        except asyncio.CancelledError:
            flight.crash(Unavailable("The fetch was given up.", hint="Try again."))
            raise
        except BerthError as error:
            flight.crash(error)
        finally:
            if flight.final is None and flight.error is None:
                flight.crash(Unavailable("The fetch failed unexpectedly.", hint="The log has the details."))
            if self._flights.get(flight.row) is flight:
                del self._flights[flight.row]

    async def _look(self, flight: Flight) -> None:
        """Fetch it if nobody does; otherwise see how far they are."""
        digest = flight.digest
        async with self._db.transaction() as conn:
            blob = await queries.held_in(conn, digest, flight.scope)
            mine = under_way = None
            if blob is not None and blob.location is None:
                mine = await queries.take_fetch(conn, flight.row, holder=self._parts.holder, seconds=LEASE_SECONDS)
            if blob is not None and mine is None:
                under_way = await queries.fetch_of(conn, flight.row)
        attempt = flight.attempt
        followed = under_way.location if under_way is not None else ""
        if attempt is not None and mine is None and attempt.location != followed:
            # Whether those bytes were the right ones nobody can say any more.
            flight.fail(attempt, IntegrityError(f"The fetch of {digest} had to be started anew."))
        if blob is None:
            raise BlobUnknown(f"There is no blob {digest} any more.")
        if blob.location is not None:
            flight.land(blob.location)
        elif mine is not None:
            await Fetch(self._parts, flight).run(mine)
        else:
            if under_way is not None and under_way.location:
                if flight.attempt is None:
                    flight.begin(under_way.location, under_way.received)
                elif under_way.received > flight.attempt.received:
                    flight.attempt.received = under_way.received
                    flight.changed()
            await asyncio.sleep(LOOK_SECONDS)
