"""What does the process do that fetches a blob? Asks registry after registry, and keeps what has the right digest.

Its row in `fetches` is renewed every two seconds: a holder that falls silent loses it, with what it has gathered, to
the next. A registry that breaks off is replaced in mid-blob; one that sent wrong bytes is remembered.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from berth import telemetry
from berth.adapters.stores.contract import BlobStore
from berth.catalog import queries as catalog
from berth.db import queue
from berth.db.engine import Database
from berth.errors import BerthError, BlobUnknown, Conflict, IntegrityError, NotFound, Unavailable, UploadUnknown
from berth.oci import digest as digests
from berth.sync.cache import queries
from berth.sync.cache.flight import Attempt, Flight
from berth.sync.cache.health import Health
from berth.sync.cache.opened import Opened
from berth.sync.cache.queries import Place

# A registry that says nothing for so long is given up for the next one: somebody waits.
STALL_SECONDS: Final = 20.0
LEASE_SECONDS: Final = 6.0
BEAT_SECONDS: Final = 2.0
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Parts:
    """What all fetches of a process share.

    Attributes:
        holder: how rows of `fetches` name this process.
        bounded: what comes in may have to make room.
    """

    db: Database
    store: BlobStore
    health: Health
    opened: Opened
    clock: Callable[[], datetime]
    holder: str
    bounded: bool

    async def in_order(
        self, digest: str, *, repository_id: int | None = None, project_id: int | None = None
    ) -> list[Place]:
        """Where a blob should be, in the order of asking."""
        async with self.db.reading() as conn:
            found = await queries.places(conn, digest, repository_id=repository_id, project_id=project_id)
        rank = {name: number for number, name in enumerate(self.health.order(place.registry for place in found))}
        return sorted(found, key=lambda place: rank[place.registry])


class Fetch:
    """The work of the process that holds the row of a fetch."""

    def __init__(self, parts: Parts, flight: Flight) -> None:
        self._parts = parts
        self._flight = flight
        self._db = parts.db
        self._store = parts.store
        self._health = parts.health
        # registry and repository → what came of asking it
        self._tried: dict[tuple[str, str], str] = {}
        self._current: Attempt | None = None
        self._lost = False

    async def run(self, left: queries.Fetch) -> None:
        beat = asyncio.create_task(self._beat())
        work = asyncio.create_task(self._work(left))
        try:
            # The row's loss ends the work: whoever has it now writes to the same file.
            await asyncio.wait({beat, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (beat, work):
                task.cancel()
            await asyncio.gather(beat, work, return_exceptions=True)
            if self._flight.final is None:
                with suppress(Unavailable):
                    async with self._db.transaction() as conn:
                        await queries.end_fetch(conn, self._flight.row, holder=self._parts.holder)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            with suppress(Unavailable):
                if not await self._say():
                    self._lost = True
                    return

    async def _say(self) -> bool:
        current = self._current
        async with self._db.transaction() as conn:
            return await queries.beat_fetch(
                conn,
                self._flight.row,
                holder=self._parts.holder,
                location="" if current is None else current.location,
                received=0 if current is None else current.received,
                seconds=LEASE_SECONDS,
            )

    async def _work(self, left: queries.Fetch) -> None:
        flight = self._flight
        attempt = flight.attempt
        if not left.location:
            attempt = None
        elif attempt is None or attempt.location != left.location:
            attempt = flight.begin(left.location, left.received)
        while flight.final is None:
            resumed = attempt is not None and attempt.received > 0
            if attempt is None:
                attempt = flight.begin(await self._store.create_upload(_upload_id()))
            self._current = attempt
            if not await self._say():
                return
            try:
                await self._attempt(attempt, resumed=resumed)
            except BerthError as error:
                flight.fail(attempt, error)
                await self._store.delete(attempt.location)
                # Other bytes, or an upload of a dead process that is gone or not quite dead: from the beginning then.
                if not isinstance(error, _Wrong | UploadUnknown | Conflict):
                    raise
            except asyncio.CancelledError:
                flight.fail(attempt, Unavailable("The fetch was given up.", hint="Try again."))
                if not self._lost:  # or it belongs to somebody else by now
                    await self._store.delete(attempt.location)
                raise
            attempt = None

    async def _attempt(self, attempt: Attempt, *, resumed: bool) -> None:
        """Raises _Wrong when the bytes were not the blob's, Unavailable when no registry is left to ask."""
        flight = self._flight
        algorithm = digests.parse(flight.digest).algorithm
        upload_id = attempt.location.rpartition("/")[2]
        givers: list[Place] = []

        def written(size: int) -> None:
            attempt.received = size
            flight.changed()

        try:
            async with aclosing(self._pieces(attempt.received, givers)) as pieces:
                appended = await self._store.append(
                    attempt.location,
                    upload_id=upload_id,
                    algorithm=algorithm,
                    offset=attempt.received,
                    chunks=pieces,
                    written=written,
                )
            found = await self._store.digest_of_upload(
                attempt.location, upload_id=upload_id, algorithm=algorithm, size=appended.size
            )
            if found != flight.digest:
                raise IntegrityError(f"The bytes that came are {found}, not {flight.digest}.")
        except IntegrityError as error:
            if not resumed:
                self._blame(givers, error)
            raise _Wrong(error.message, hint="Nothing of it was kept.", detail={"digest": flight.digest}) from error
        await self._keep(attempt, None if resumed or len(givers) != 1 else givers[0])

    async def _pieces(self, offset: int, givers: list[Place]) -> AsyncGenerator[bytes, None]:
        """The blob's bytes from the first registry that gives them; where one stops the next goes on."""
        flight = self._flight
        position = offset
        if position == flight.size:
            return  # a dead process had all of it, or there is nothing to have
        for place in await self._parts.in_order(flight.digest, project_id=flight.scope):
            if (place.registry, place.repository) in self._tried or not self._may_ask(place):
                continue
            began, first = time.monotonic(), True
            try:
                async with (
                    self._parts.opened.borrow(place.registry) as registry,
                    aclosing(registry.blob(place.repository, flight.digest, offset=position)) as pieces,  # type: ignore[type-var]
                ):
                    while (piece := await _next(pieces)) is not None:
                        if first:
                            self._health.answered(place.registry, time.monotonic() - began)
                            givers.append(place)
                            first = False
                        position += len(piece)
                        if position > flight.size:
                            raise IntegrityError(f"{place.registry} sends more than {flight.size} bytes.")
                        telemetry.metrics().fetch_bytes.labels(place.registry).inc(len(piece))
                        yield piece
                if position == flight.size:
                    self._health.succeeded(place.registry)
                    telemetry.metrics().fetches.labels(place.registry, "ok").inc()
                    return
                self._note(place, f"It ended after {position} of {flight.size} bytes.", "failed")
            except IntegrityError:
                if place not in givers:
                    givers.append(place)
                raise
            except NotFound as error:
                self._note(place, error.message, "missing")
            except TimeoutError:
                self._note(place, f"It has sent nothing for {STALL_SECONDS:g} s.", "failed")
            except BerthError as error:
                self._note(place, error.message, "failed")
        raise self._nobody()

    def _may_ask(self, place: Place) -> bool:
        state = self._health.state(place.registry)
        if not state.healthy:
            self._tried[(place.registry, place.repository)] = (
                f"{state.reason or 'It failed.'} It is left alone for {state.retry_seconds:.0f} s."
            )
        return state.healthy

    def _note(self, place: Place, reason: str, outcome: str) -> None:
        self._tried[(place.registry, place.repository)] = reason
        if outcome == "failed":
            # Everybody whose versions are there is told why; whose model it happened to is not their business.
            self._health.failed(place.registry, reason.replace(place.repository, "…"))
        telemetry.metrics().fetches.labels(place.registry, outcome).inc()
        log.warning("fetch_failed", registry=place.registry, digest=self._flight.digest, reason=reason)

    def _blame(self, givers: list[Place], error: IntegrityError) -> None:
        for place in givers:
            self._tried[(place.registry, place.repository)] = error.message
            self._health.lied(place.registry, error.message)
            telemetry.metrics().fetches.labels(place.registry, "lied").inc()
            log.error("wrong_bytes", registry=place.registry, digest=self._flight.digest, message=error.message)

    def _nobody(self) -> Unavailable:
        waits = [self._health.state(name).retry_seconds for name, _ in self._tried]
        retry = max(1, round(min(waits, default=5.0)))
        return nobody_gives(
            self._flight.digest,
            [
                {"registry": name, "repository": repository, "reason": reason}
                for (name, repository), reason in sorted(self._tried.items())
            ],
            retry,
        )

    async def _keep(self, attempt: Attempt, giver: Place | None) -> None:
        """The verified upload becomes the blob, if it is still wanted; `giver`: where all of it came from."""
        digest = self._flight.digest
        now = self._parts.clock()
        async with self._db.transaction() as conn:
            row = await catalog.blob_state(conn, digest)
            if row is None or row.state != "live":
                raise BlobUnknown(f"{digest} was removed while it came in.")
            await queries.prove(conn, digest, project_id=self._flight.scope, giver=giver)
            location = row.location
            if location is None:
                location = await self._store.promote(attempt.location, digest)
                await queries.arrived(conn, digest, location=location, now=now)
                if self._parts.bounded:
                    await queue.defer(conn, "evict_cache", queue="short", key="evict_cache")
            # Left for a moment: those who follow in other processes see that this very upload was the right one.
            await queries.finish_fetch(
                conn, self._flight.row, holder=self._parts.holder, location=attempt.location, received=self._flight.size
            )
        self._flight.land(location)
        await self._store.delete(attempt.location)


def nobody_gives(digest: str, told: Sequence[Mapping[str, str]], retry: int) -> Unavailable:
    """The error for a blob that no registry gives; `told`: registry, repository and reason of each."""
    said = " ".join(f"{entry['registry']}: {entry['reason']}" for entry in told)
    return Unavailable(
        f"{digest} is not in the depot, and no registry gives it now. " + (said or "None is known to hold it."),
        hint=f"Try again in {retry} s.",
        detail={"registries": list(told), "retry_after": retry},
    )


class _Wrong(IntegrityError):
    """An attempt brought other bytes."""


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    """The next piece, None at the end. Raises TimeoutError when it does not come."""
    async with asyncio.timeout(STALL_SECONDS):
        return await anext(pieces, None)


def _upload_id() -> str:
    return f"fetch-{secrets.token_urlsafe(18)}"
