"""How is a rule carried out? Plan once, then item by item, each with its outcome in the journal.

A run that was killed is taken up where its journal ends; what had arrived at the target is not sent again. One item
that fails leaves the others alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from berth.adapters.registries.contract import Registry
from berth.db import queue
from berth.db.engine import Database
from berth.errors import BerthError, Conflict, Unavailable
from berth.sync.copy import again, copy_version
from berth.sync.depot import DepotRegistry
from berth.sync.flow import Cancelled, Flow, first, lasting
from berth.sync.journal import queries
from berth.sync.journal.queries import ItemRow
from berth.sync.listing import all_tags, compared
from berth.sync.places import RegistryDirectory
from berth.sync.plan import Terms, plan
from berth.sync.publishing import record
from berth.sync.rules import DEPOT, Rule, limits_of, read_terms

BEAT_SECONDS: Final = 2.0
# Models that are copied side by side; the versions of one come one after the other, lowest first.
MODELS_AT_ONCE: Final = 3
# A run that took so many workers down with it, and moved nothing meanwhile, is given up.
MAX_ATTEMPTS: Final = 8
log = structlog.get_logger(__name__)


async def carry_out(
    db: Database,
    places: RegistryDirectory,
    run_id: int,
    *,
    now: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Do what is left of a run; one that has ended, or was removed, needs nothing.

    The outcome, failures included, is in the run's row and its items; only the database's own failures are raised.
    """
    async with db.transaction() as conn:
        run = await queries.run_by_id(conn, run_id)
        rule = await queries.rule_of_run(conn, run_id)
        if run is None or rule is None or run.state not in ("queued", "running"):
            return
        if run.cancel_requested or run.attempts >= MAX_ATTEMPTS:
            state, error = ("cancelled", None) if run.cancel_requested else ("failed", "It was interrupted too often.")
            await queries.close_items(conn, run_id, error="The run ended before its turn.")
            await queries.end_run(conn, run_id, state=state, error=error, now=now())
            return
        await queries.begin_run(conn, run_id, now=now())
    work = _Run(db, rule, run_id, now=now, sleep=sleep)
    watch = asyncio.create_task(work.watch())
    error = None
    try:
        await work.carry_out(places, planned=run.planned, only_plan=run.kind == "plan")
    except Cancelled:
        pass
    except BerthError as failure:
        error = str(failure)
        log.warning("sync_failed", rule=rule.name, run=run_id, code=failure.code, message=failure.message)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    await work.finish(error)


class _Run:
    def __init__(
        self,
        db: Database,
        rule: Rule,
        run_id: int,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._db = db
        self._rule = rule
        self._run_id = run_id
        self._now = now
        self._terms: Terms = read_terms(rule.terms, project=rule.project)
        self._flow = Flow(limits_of(rule.terms), sleep=sleep)
        self.stopped = False

    async def watch(self) -> None:
        """Says that the run lives, and notices that it is to stop."""
        while not self.stopped:
            try:
                async with self._db.transaction() as conn:
                    self.stopped = await queries.beat(conn, self._run_id, now=self._now())
            except Unavailable:
                pass  # it comes back, or the work itself notices
            await asyncio.sleep(BEAT_SECONDS)

    async def carry_out(self, places: RegistryDirectory, *, planned: bool, only_plan: bool) -> None:
        source = await places.open(self._rule.source)
        try:
            target = source if self._rule.target == self._rule.source else await places.open(self._rule.target)
            try:
                if not planned:
                    await self._plan(places, source, target)
                if not only_plan:
                    await self._execute(source, target)
            finally:
                await target.close()
        finally:
            await source.close()

    async def _plan(self, places: RegistryDirectory, source: Registry, target: Registry) -> None:
        depot = await places.open(DEPOT)
        judge = depot if isinstance(depot, DepotRegistry) else None
        ours, theirs = await again(lambda: compared(self._terms, source, target, judge=judge), flow=self._flow)
        items = plan(self._terms, ours, theirs, self._now())
        async with self._db.transaction() as conn:
            await queries.write_plan(conn, self._run_id, items)

    async def _execute(self, source: Registry, target: Registry) -> None:
        async with self._db.reading() as conn:
            items = await queries.open_items(conn, self._run_id)
        models: dict[str, list[ItemRow]] = {}
        for item in items:
            models.setdefault(item.target_repository, []).append(item)
        waiting = iter(models.values())

        async def work() -> None:
            for model in waiting:
                await self._execute_model(source, target, model)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(MODELS_AT_ONCE, len(models))):
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            raise first(failures) from None

    async def _execute_model(self, source: Registry, target: Registry, items: list[ItemRow]) -> None:
        copies = any(item.action == "copy" for item in items)
        tags: list[str] | None = None
        if copies and not isinstance(source, DepotRegistry):
            try:
                tags = await again(lambda: all_tags(source, items[0].source_repository), flow=self._flow)
            except BerthError as error:
                tags = None
                log.warning("sync_tags_unknown", repository=items[0].source_repository, code=error.code)
        broken = False
        for item in items:
            if self.stopped:
                raise Cancelled("The run was stopped.")
            if broken and self._terms.only_higher and item.action == "copy":
                # Were it to arrive, the one that failed would never be higher again.
                await self._settle(item, "cancelled", "An earlier version failed; both come with the next run.")
                continue
            broken |= not await self._execute_item(source, target, item, tags)

    async def _execute_item(self, source: Registry, target: Registry, item: ItemRow, tags: list[str] | None) -> bool:
        """True unless it failed."""
        window = self._terms.window
        if window is not None and not window.holds(self._now()):
            await self._settle(item, "cancelled", "The hours of the rule are over; the next run goes on.")
            return True
        try:
            if item.action == "prune":
                await self._prune(target, item)
            else:
                await self._copy(source, target, item, tags)
        except Cancelled:
            raise
        except Conflict as error:
            await self._settle(item, "conflict", str(error))
        except BerthError as error:
            await self._settle(item, "failed", str(error))
            return False
        return True

    async def _copy(self, source: Registry, target: Registry, item: ItemRow, tags: list[str] | None) -> None:
        digest = item.digest or ""
        if isinstance(source, DepotRegistry) and not await source.admitted(item.source_repository, digest):
            await self._settle(item, "cancelled", "The gate no longer lets it out.")
            return
        await self._write(lambda conn: queries.set_item(conn, item.id, state="running"))
        copied = await copy_version(
            source,
            target,
            item.source_repository,
            item.target_repository,
            digest,
            item.tag,
            flow=self._flow,
            journal=_ItemJournal(self, item.id),
            known_tags=tags,
        )

        async def done(conn: AsyncConnection) -> None:
            await queries.set_item(conn, item.id, state="done", notes=copied.notes)
            if isinstance(source, DepotRegistry):
                # Whatever left the depot is taken back when its verdict turns.
                await record.published(
                    conn,
                    repository=item.source_repository,
                    digest=digest,
                    tag=item.tag,
                    registry=self._rule.target,
                    target_repository=item.target_repository,
                    now=self._now(),
                )

        await self._write(done)

    async def _prune(self, target: Registry, item: ItemRow) -> None:
        repository, digest = item.target_repository, item.target_digest or ""
        found = await again(lambda: target.stat(repository, item.tag), flow=self._flow)
        if found is not None and found.digest != digest:
            raise Conflict(f"{repository}:{item.tag} has changed at the target since the plan was made.")
        notes = []
        if found is not None and self._terms.delete == "delete" and not await self._shared(target, item):
            await again(lambda: target.delete_manifest(repository, digest), flow=self._flow)
        elif found is not None:
            if self._terms.delete == "delete":
                notes.append("Other names mean the same content there, so only this name went.")
            await again(lambda: target.delete_tag(repository, item.tag), flow=self._flow)
        await self._write(lambda conn: queries.set_item(conn, item.id, state="done", notes=notes))

    async def _shared(self, target: Registry, item: ItemRow) -> bool:
        """Whether another name at the target means the same content, which deleting by digest would take away too."""
        for tag in await all_tags(target, item.target_repository):
            if tag != item.tag:
                stat = await target.stat(item.target_repository, tag)
                if stat is not None and stat.digest == item.target_digest:
                    return True
        return False

    async def _settle(self, item: ItemRow, state: str, error: str) -> None:
        await self._write(lambda conn: queries.set_item(conn, item.id, state=state, error=error))

    async def sent(self, item_id: int, size: int) -> None:
        await self._write(lambda conn: queries.item_sent(conn, item_id, size))

    async def _write(self, do: Callable[[AsyncConnection], Awaitable[None]]) -> None:
        """In a transaction of its own; a database that is away for a moment fails no item."""

        async def write() -> None:
            async with self._db.transaction() as conn:
                await do(conn)

        await lasting(write, sleep=self._flow.sleep)

    async def finish(self, error: str | None) -> None:
        await self._write(lambda conn: self._finish(conn, error))

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
        if run is not None and run.kind == "run":
            await queries.close_items(conn, self._run_id, error="The run ended before its turn.")


class _ItemJournal:
    """The journal of one item (sync/flow.py)."""

    def __init__(self, run: _Run, item_id: int) -> None:
        self._run = run
        self._item_id = item_id

    async def wanted(self) -> bool:
        return not self._run.stopped

    async def planned(self, blobs: int, size: int) -> None:
        return None

    async def whole(self, digest: str, *, size: int, sent: int) -> None:
        await self._run.sent(self._item_id, sent)


async def start(conn: AsyncConnection, rule: Rule, *, kind: str, by: str) -> int:
    """Put a run (or a plan) of a rule on the queue; returns its number.

    Raises:
        Conflict: a run of this rule is under way.
    """
    run_id = await queries.insert_run(conn, rule_id=rule.id, kind=kind, started_by=by)
    if run_id is None:
        raise Conflict(
            f"A run of '{rule.name}' is under way.", hint=f"berth sync status {rule.name} shows how far it is."
        )
    await enqueue(conn, run_id)
    return run_id


async def enqueue(conn: AsyncConnection, run_id: int) -> None:
    """Have a worker take up a run; once, however often it is asked."""
    await queue.defer(conn, "run_sync", queue="publish", key=f"run_sync:{run_id}", run_id=run_id)
