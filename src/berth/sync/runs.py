"""How is a rule carried out? Plan once, then item by item, each with its outcome in the journal.

A run that was killed is taken up where its journal ends; what had arrived at the target is not sent again. One item
that fails leaves the others alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from berth.adapters.registries.contract import Registry, Repacking
from berth.db import queue
from berth.db.engine import Database
from berth.db.sealing import Sealer
from berth.errors import BerthError, Conflict
from berth.sync.confirmed import queries as confirmed
from berth.sync.depot import DepotRegistry
from berth.sync.flow import Cancelled, Flow, HeldBack
from berth.sync.images import bring, holds_version
from berth.sync.journal import queries
from berth.sync.journal.queries import ItemRow
from berth.sync.listing import Remembered, all_tags, compared
from berth.sync.places import RegistryDirectory
from berth.sync.publishing import queries as placing
from berth.sync.publishing import record
from berth.sync.publishing.publish import held_back, is_admitted
from berth.sync.publishing.recall import recall
from berth.sync.resuming.kept import KeptUploads
from berth.sync.resuming.queries import Owner
from berth.sync.rules import DEPOT, Rule, limits_of, read_terms
from berth.sync.trying import again
from berth.sync.underway import ItemJournal, Underway, begin
from berth.wire.parallel import each
from berth.wire.plan import Listed, Terms, plan, target_name

# Models that are copied side by side, and versions of one where their order says nothing; blobs have their own limits.
MODELS_AT_ONCE: Final = 3
VERSIONS_AT_ONCE: Final = 4
log = structlog.get_logger(__name__)


async def carry_out(
    db: Database,
    places: RegistryDirectory,
    run_id: int,
    *,
    now: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    sealer: Callable[[], Sealer] | None = None,
) -> None:
    """Do what is left of a run; one that has ended, or was removed, needs nothing.

    The outcome, failures included, is in the run's row and its items; only the database's own failures are raised.

    Args:
        sealer: with it a run that is taken up again goes on in the middle of a large blob.
    """
    run = await begin(db, run_id, now=now)
    async with db.reading() as conn:
        rule = await queries.rule_of_run(conn, run_id)
    if run is None or rule is None:
        return
    work = _Run(db, places, rule, run.id, now=now, sleep=sleep, sealer=sealer)
    await work.through(lambda: work.carry_out(planned=run.planned, only_plan=run.kind == "plan"))


class _Run(Underway):
    def __init__(
        self,
        db: Database,
        places: RegistryDirectory,
        rule: Rule,
        run_id: int,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]],
        sealer: Callable[[], Sealer] | None,
    ) -> None:
        super().__init__(db, run_id, now=now, sleep=sleep)
        self._places = places
        self._rule = rule
        self._terms: Terms = read_terms(rule.terms, project=rule.project)
        self._flow = Flow(limits_of(rule.terms), sleep=sleep)
        self._uploads = KeptUploads(db, sealer, Owner(run=run_id), now=now, sleep=sleep)

    async def carry_out(self, *, planned: bool, only_plan: bool) -> None:
        source = await self._places.open(self._rule.source)
        try:
            target = source if self._rule.target == self._rule.source else await self._places.open(self._rule.target)
            try:
                if not planned:
                    await self._plan(source, target, thorough=only_plan)
                if not only_plan:
                    await self._carry_over(source, target)
            finally:
                await target.close()
        finally:
            await source.close()

    async def _plan(self, source: Registry, target: Registry, *, thorough: bool) -> None:
        """`thorough`: whoever only wants to know what differs is told what is so now, at the price of asking."""
        depot = await self._places.open(DEPOT)
        judge = depot if isinstance(depot, DepotRegistry) else None
        async with self._db.reading() as conn:
            remembered = Remembered(await queries.source_digests(conn, self._rule.id, before=self._run_id))
            if not thorough:
                remembered.evidence = await confirmed.fresh(conn, self._rule.id, now=self._now())
        ours, theirs = await again(
            lambda: compared(self._terms, source, target, judge=judge, remembered=remembered), flow=self._flow
        )
        if isinstance(source, DepotRegistry):
            wait = await self._held_back()
            ours = [replace(listed, held_back=wait) for listed in ours] if wait else ours
        elif not isinstance(target, DepotRegistry):
            ours = await self._without_what_was_taken_back(ours)
        items = plan(self._terms, ours, theirs, self._now())
        async with self._db.transaction() as conn:
            await queries.write_plan(conn, self._run_id, items)
            if not isinstance(target, DepotRegistry):
                await confirmed.keep(conn, self._rule.id, remembered.seen, now=self._now())

    async def _without_what_was_taken_back(self, ours: list[Listed]) -> list[Listed]:
        """What the gate withdrew from the target does not return there from elsewhere, as long as it is denied."""
        async with self._db.reading() as conn:
            withdrawn = await placing.withdrawn_from(conn, self._rule.target)

        async def judged(listed: Listed) -> Listed:
            here = withdrawn.get((target_name(self._terms, listed.repository), listed.digest))
            return listed if here is None else replace(listed, held_back=await self._denied(here, listed.digest))

        return await each(ours, judged) if withdrawn else ours

    async def _denied(self, repository_id: int, digest: str) -> str | None:
        async with self._db.transaction() as conn:
            if await is_admitted(conn, repository_id, digest, self._now()):
                return None
        return f"The gate denies it, and took it back from {self._rule.target}."

    async def _held_back(self) -> str | None:
        async with self._db.reading() as conn:
            return await held_back(conn, self._terms.project, self._rule.target)

    async def _carry_over(self, source: Registry, target: Registry) -> None:
        try:
            await self._execute(source, target)
        except BerthError:
            await self._uploads.give_up(target)
            raise
        await self._uploads.give_up(target)

    async def _execute(self, source: Registry, target: Registry) -> None:
        async with self._db.reading() as conn:
            items = await queries.open_items(conn, self._run_id)
        models: dict[str, list[ItemRow]] = {}
        for item in items:
            models.setdefault(item.target_repository, []).append(item)
        await each(
            list(models.values()), lambda model: self._execute_model(source, target, model), at_once=MODELS_AT_ONCE
        )

    async def _execute_model(self, source: Registry, target: Registry, items: list[ItemRow]) -> None:
        copies = any(item.action == "copy" for item in items)
        tags: list[str] | None = None
        if copies and not isinstance(source, DepotRegistry):
            try:
                tags = await again(lambda: all_tags(source, items[0].source_repository), flow=self._flow)
            except BerthError as error:
                tags = None
                log.warning("sync_tags_unknown", repository=items[0].source_repository, code=error.code)

        async def carry(item: ItemRow) -> bool:
            if self.stopped:
                raise Cancelled("The run was stopped.")
            return await self._execute_item(source, target, item, tags)

        if not self._terms.only_higher and not isinstance(source, Repacking) and not isinstance(target, Repacking):
            await each([item for item in items if item.action == "copy"], carry, at_once=VERSIONS_AT_ONCE)
            items = [item for item in items if item.action != "copy"]
        broken = False
        for item in items:
            if broken and self._terms.only_higher and item.action == "copy":
                # Were it to arrive, the one that failed would never be higher again.
                await self.settle(item, "cancelled", "An earlier version failed; both come with the next run.")
                continue
            broken |= not await carry(item)

    async def _execute_item(self, source: Registry, target: Registry, item: ItemRow, tags: list[str] | None) -> bool:
        """True unless it failed."""
        window = self._terms.window
        if window is not None and not window.holds(self._now()):
            await self.settle(item, "cancelled", "The hours of the rule are over; the next run goes on.")
            return True
        try:
            if item.action == "prune":
                await self._prune(source, target, item)
            else:
                await self._copy(source, target, item, tags)
        except HeldBack as held:
            await self.settle(item, "cancelled", held.message)
        except Cancelled:
            raise
        except Conflict as error:
            await self.settle(item, "conflict", str(error))
        except BerthError as error:
            await self.settle(item, "failed", str(error))
            return False
        return True

    async def _copy(self, source: Registry, target: Registry, item: ItemRow, tags: list[str] | None) -> None:
        digest = item.digest or ""
        if (why := await self._kept_here(source, target, item)) is not None:
            await self.settle(item, "cancelled", why)
            return
        await self.write(lambda conn: queries.set_item(conn, item.id, state="running"))
        copied = await bring(
            source,
            target,
            item.source_repository,
            item.target_repository,
            digest,
            item.tag,
            flow=self._flow,
            journal=ItemJournal(
                self, item.id, uploads=self._uploads, kept_here=lambda: self._kept_here(source, target, item)
            ),
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

        await self.write(done)

    async def _kept_here(self, source: Registry, target: Registry, item: ItemRow) -> str | None:
        """Why a version does not go after all: what was so when the plan was made may have changed."""
        if isinstance(source, DepotRegistry):
            if not await source.admitted(item.source_repository, item.digest or ""):
                return "The gate no longer lets it out."
            return await self._held_back()
        if isinstance(target, DepotRegistry):
            return None
        async with self._db.reading() as conn:
            withdrawn = await placing.withdrawn_from(conn, self._rule.target, digest=item.digest)
        here = withdrawn.get((item.target_repository, item.digest or ""))
        return None if here is None else await self._denied(here, item.digest or "")

    async def _prune(self, source: Registry, target: Registry, item: ItemRow) -> None:
        repository, digest = item.target_repository, item.target_digest or ""
        found = await again(lambda: target.stat(repository, item.tag), flow=self._flow)
        if found is not None and isinstance(target, Repacking) and found.digest != digest:
            # The plan may name it by the digest that it has at the source.
            if await holds_version(target, (repository, item.tag), source, item.source_repository, digest):
                digest = found.digest
        if found is not None and found.digest != digest:
            raise Conflict(f"{repository}:{item.tag} has changed at the target since the plan was made.")
        notes = []
        placed = await self._recalled(repository, item.target_digest or "") if found is not None else []
        if found is not None and self._terms.delete == "delete" and not await self._shared(target, item):
            await again(lambda: target.delete_manifest(repository, digest), flow=self._flow)
        elif found is not None:
            if self._terms.delete == "delete":
                notes.append("Other names mean the same content there, so only this name went.")
            await again(lambda: target.delete_tag(repository, item.tag), flow=self._flow)
            if target.capabilities.last_tag_takes_content and await target.stat(repository, digest) is None:
                notes.append("This registry deletes content with its last name: it is gone there.")

        async def done(conn: AsyncConnection) -> None:
            await queries.set_item(conn, item.id, state="done", notes=notes)
            for placement in placed:
                await placing.settle(
                    conn, placement, state="withdrawn", now=self._now(), error="A sync rule removed it."
                )

        await self.write(done)

    async def _recalled(self, repository: str, digest: str) -> list[int]:
        """The places of ours that a removal at the target takes away; what they alone hold is in the depot again."""
        registry = self._rule.target
        async with self._db.reading() as conn:
            placed = await placing.placed_at(conn, registry=registry, repository=repository, digest=digest)
        by_repository: dict[int, list[int]] = {}
        for placement, repository_id in placed:
            by_repository.setdefault(repository_id, []).append(placement)
        depot = await self._places.open(DEPOT)
        if isinstance(depot, DepotRegistry):
            for repository_id, ids in by_repository.items():
                await recall(self._db, depot.fetcher, ids, repository_id=repository_id, root=digest, now=self._now())
        return [placement for placement, _ in placed]

    async def _shared(self, target: Registry, item: ItemRow) -> bool:
        """Whether another name at the target means the same content, which deleting by digest would take away too."""
        for tag in await all_tags(target, item.target_repository):
            if tag != item.tag:
                stat = await target.stat(item.target_repository, tag)
                if stat is not None and stat.digest == item.target_digest:
                    return True
        return False


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
