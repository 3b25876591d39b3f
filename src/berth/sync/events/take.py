"""What follows from an event at another registry? A push starts rules, a deletion is mended or written down.

An event is only a hint, and may be late: before anything is changed because of a deletion, the registry is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from berth.adapters.registries.contract import Registry
from berth.db import queue
from berth.db import registries as stored
from berth.db.engine import Database
from berth.db.registries import RegistryRow
from berth.errors import BerthError
from berth.oci.version import from_tag, is_version_tag, to_tag
from berth.sync import runs
from berth.sync.events import queries
from berth.sync.events.queries import EventRow, Lost
from berth.sync.journal import queries as rules
from berth.sync.places import RegistryDirectory
from berth.sync.publishing import queries as placing
from berth.sync.publishing.publish import is_admitted, wanted
from berth.sync.trying import PASSING

BATCH: Final = 200
log = structlog.get_logger(__name__)


async def take(db: Database, places: RegistryDirectory, registry_id: int, *, now: Callable[[], datetime]) -> bool:
    """Do what follows from the events that wait; True when some have to wait longer, for a rule that is busy.

    Raises:
        BerthError: the last failure that may pass, after every event was looked at; the caller comes back later.
    """
    async with db.reading() as conn:
        row = await stored.registry_by_id(conn, registry_id)
    if row is None:
        return False
    work = _Work(db, places, row, now)
    after, waits = 0, False
    passing: BerthError | None = None
    try:
        while True:
            async with db.reading() as conn:
                events = await queries.new_events(conn, registry_id, after=after, limit=BATCH)
            for event in events:
                after = event.id
                try:
                    waits |= not await work.one(event)
                except BerthError as error:
                    if isinstance(error, PASSING):
                        passing = error
                        continue
                    log.warning("event_failed", registry=row.name, event=event.id, code=error.code)
                    async with db.transaction() as conn:
                        await queries.finish(conn, event.id, f"Nothing could follow: {error}")
            if len(events) < BATCH:
                break
    finally:
        await work.close()
    if passing is not None:
        raise passing
    return waits


@dataclass
class _Work:
    db: Database
    places: RegistryDirectory
    row: RegistryRow
    now: Callable[[], datetime]
    registry: Registry | None = None

    async def one(self, event: EventRow) -> bool:
        """False when it has to wait."""
        if event.action == "pushed":
            return await self._pushed(event)
        if event.action == "deleted":
            await self._deleted(event)
        elif event.action == "pulled" and event.digest is not None:
            async with self.db.transaction() as conn:
                if await queries.finish(conn, event.id, "Counted."):
                    await queries.count_pull(
                        conn,
                        self.row.id,
                        repository=event.repository,
                        digest=event.digest,
                        at=event.happened_at or event.received_at,
                    )
        else:
            async with self.db.transaction() as conn:
                await queries.finish(conn, event.id, "Noted.")
        return True

    async def _pushed(self, event: EventRow) -> bool:
        project = event.repository.partition("/")[0]
        started = []
        async with self.db.transaction() as conn:
            for rule in await rules.event_rules(conn, self.row.name, project):
                run_id = await queries.waiting_run(conn, rule.id)
                if run_id is None:
                    # A run under way may have looked at the source before this was there.
                    run_id = await rules.insert_run(conn, rule_id=rule.id, kind="run", started_by="event")
                    if run_id is None:
                        return False
                    await runs.enqueue(conn, run_id)
                started.append(f"run {run_id} of {rule.name}")
            outcome = f"Started {', '.join(started)}." if started else "No rule waits for it."
            await queries.finish(conn, event.id, outcome)
        return True

    async def _deleted(self, event: EventRow) -> None:
        version = from_tag(event.tag) if event.tag is not None and is_version_tag(event.tag) else None
        async with self.db.reading() as conn:
            found = await queries.placed(conn, self.row.name, event.repository, digest=event.digest, version=version)
        said = [await self._lost(lost, event) for lost in found if await self._is_gone(lost)]
        outcome = " ".join(said) or ("It is still there." if found else "Nothing of ours was published there.")
        async with self.db.transaction() as conn:
            await queries.finish(conn, event.id, outcome)

    async def _is_gone(self, lost: Lost) -> bool:
        if self.registry is None:
            self.registry = await self.places.open(self.row.name)
        stat = await self.registry.stat(lost.repository, to_tag(lost.version))
        return stat is None or stat.digest != lost.digest

    async def _lost(self, lost: Lost, event: EventRow) -> str:
        """What is to be at that registry is published again; anything else is only written down."""
        depot = await self.places.open("depot")
        try:
            targets = await wanted(self.db, depot, lost.repository_id, lost.digest, self.now)
        finally:
            await depot.close()
        back = any(
            (t.registry, t.repository, t.version.version_id) == (self.row.name, lost.repository, lost.version_id)
            for t in targets
        )
        when = (event.happened_at or event.received_at).isoformat(timespec="seconds")
        said = f"{lost.repository}:{lost.version} was removed there ({when});"
        async with self.db.transaction() as conn:
            if back:
                text = f"{said} it is published again."
                await placing.settle(conn, lost.placement, state="pending", now=self.now(), error=text)
                await queue.follow(conn, lost.repository_id, lost.digest, admitted=True)
            else:
                admitted = await is_admitted(conn, lost.repository_id, lost.digest, self.now())
                text = f"{said} {'no rule brings it back.' if admitted else 'it is denied here.'}"
                await placing.settle(conn, lost.placement, state="withdrawn", now=self.now(), error=text)
        log.info("placement_lost", registry=self.row.name, repository=lost.repository, version=lost.version)
        return text

    async def close(self) -> None:
        if self.registry is not None:
            await self.registry.close()
