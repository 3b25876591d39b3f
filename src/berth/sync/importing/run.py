"""How is an import carried out? Surveyed once, then version by version, each with its outcome in the journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.adapters.registries.contract import Registry
from berth.adapters.stores.contract import BlobStore
from berth.db.engine import Database
from berth.errors import BerthError, Conflict, SetupError
from berth.oci.version import SemVer, from_tag
from berth.sync.depot import DepotRegistry
from berth.sync.flow import Cancelled, Flow
from berth.sync.importing import queries as imports
from berth.sync.importing.decide import Scope
from berth.sync.importing.survey import survey
from berth.sync.importing.take import Importer
from berth.sync.journal import queries
from berth.sync.journal.queries import ItemRow, Run
from berth.sync.listing import all_tags
from berth.sync.places import RegistryDirectory
from berth.sync.rules import DEPOT
from berth.sync.runs import enqueue
from berth.sync.trying import again
from berth.sync.underway import ItemJournal, Underway, begin

PRINCIPAL = "import"


async def start(
    conn: AsyncConnection, *, registry: str, project_id: int | None, scope: Scope, dry_run: bool, by: str
) -> int:
    """Put an import (or, with `dry_run`, its plan) on the queue; returns the run's number.

    Raises:
        Conflict: an import from this registry is under way.
    """
    terms = {"project": scope.project, "repository": scope.repository}
    run_id = await imports.insert_import(
        conn, registry=registry, project_id=project_id, terms=terms, dry_run=dry_run, started_by=by
    )
    if run_id is None:
        raise Conflict(f"An import from '{registry}' is under way.", hint="Wait until it has ended.")
    await enqueue(conn, run_id)
    return run_id


def scope_of(terms: Mapping[str, Any]) -> Scope:
    """What a stored import looks through."""
    project = terms.get("project")
    return Scope(None if project is None else str(project), str(terms.get("repository") or "*"))


async def carry_out(
    db: Database, store: BlobStore, places: RegistryDirectory, run_id: int, *, now: Callable[[], datetime]
) -> None:
    """Do what is left of an import; one that has ended needs nothing.

    The outcome, failures included, is in the run's row and its items.
    """
    run = await begin(db, run_id, now=now)
    if run is None:
        return
    work = _Import(db, store, run, now=now)
    await work.through(lambda: work.carry_out(places))


class _Import(Underway):
    def __init__(self, db: Database, store: BlobStore, run: Run, *, now: Callable[[], datetime]) -> None:
        super().__init__(db, run.id, now=now)
        self._store = store
        self._run = run
        self._flow = Flow()

    async def carry_out(self, places: RegistryDirectory) -> None:
        name = self._run.registry or ""
        depot = await places.open(DEPOT)
        if not isinstance(depot, DepotRegistry):
            raise SetupError("The depot is not ours.")
        source = await places.open(name)
        try:
            if not self._run.planned:
                scope = scope_of(self._run.terms)
                items = await again(lambda: survey(self._db, source, registry=name, scope=scope), flow=self._flow)
                # Lowest first: versions arrive in the order of their numbers.
                items.sort(key=lambda item: (item.source_repository, _place_of(item.tag)))
                async with self._db.transaction() as conn:
                    await queries.write_plan(conn, self._run_id, items)
            if self._run.kind == "import":
                await self._execute(depot, source, name)
        finally:
            await source.close()

    async def _execute(self, depot: DepotRegistry, source: Registry, name: str) -> None:
        importer = Importer(
            self._db, self._store, depot, source, registry=name, by=PRINCIPAL, now=self._now, flow=self._flow
        )
        async with self._db.reading() as conn:
            items = await queries.open_items(conn, self._run_id)
        tags: dict[str, list[str]] = {}
        for item in items:
            if self.stopped:
                raise Cancelled("The import was stopped.")
            repository = item.source_repository
            try:
                if repository not in tags:
                    tags[repository] = await again(lambda r=repository: all_tags(source, r), flow=self._flow)  # type: ignore[misc]
                await self._take(importer, item, tags[repository])
            except Cancelled:
                raise
            except Conflict as error:
                await self.settle(item, "conflict", str(error))
            except BerthError as error:
                await self.settle(item, "failed", str(error))

    async def _take(self, importer: Importer, item: ItemRow, known_tags: list[str]) -> None:
        async with self._db.transaction() as conn:
            await queries.set_item(conn, item.id, state="running")
        taken = await again(
            lambda: importer.take(
                item.source_repository,
                item.tag,
                item.digest or "",
                journal=ItemJournal(self, item.id),
                known_tags=known_tags,
            ),
            flow=self._flow,
        )
        async with self._db.transaction() as conn:
            await queries.set_item(conn, item.id, state="done", notes=taken.notes)


def _place_of(tag: str) -> tuple[bool, SemVer | str]:
    """Versions in the order of their numbers, other tags before them by name."""
    try:
        return True, SemVer.parse(from_tag(tag))
    except BerthError:
        return False, tag
