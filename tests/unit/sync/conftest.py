"""Fixtures of these tests: `lab`, a service with a project, its depot, and folders as other registries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from berth.access import projects
from berth.access.decide import Actor
from berth.adapters.registries.contract import Registry
from berth.adapters.registries.folder import FolderRegistry
from berth.adapters.stores.budget import TransferBudget
from berth.adapters.stores.files import FileStore
from berth.catalog import queries as catalog
from berth.db import registries as known
from berth.db.engine import Database
from berth.gates import evidence, policies
from berth.jobs.context import JobContext
from berth.settings import ServiceSettings
from berth.sync import rules
from berth.sync.depot import DepotRegistry
from berth.sync.journal import queries
from berth.sync.places import Places
from berth.sync.rules import Rule
from tests.unit.sync.made import Faulty

ADMIN = Actor(name="admin", principal_id=None, kind="user", global_role="admin")
START = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)


@dataclass
class Lab:
    """A service: `hub` and `mirror` are folders; `faults` puts a failing registry in the place of one."""

    database: Database
    store: FileStore
    folder: Path
    now: datetime = START
    faults: dict[str, Faulty] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.depot = DepotRegistry(self.database, self.store, clock=self.clock, principal="dana")
        self.hub = FolderRegistry(self.folder / "hub")
        self.mirror = FolderRegistry(self.folder / "mirror")
        self.places = Places(self.database, self.store, clock=self.clock, remote=self.remote)
        self.context = JobContext(
            db=self.database,
            store=self.store,
            vulnerability_scanner=None,  # type: ignore[arg-type]
            weight_scanner=None,  # type: ignore[arg-type]
            settings=ServiceSettings(),
            now=self.clock,
            registries=self.places,
        )

    def clock(self) -> datetime:
        return self.now

    def forward(self, **delta: float) -> None:
        self.now += timedelta(**delta)

    async def remote(self, name: str) -> Registry | None:
        if name in self.faults:
            return self.faults[name]
        # A registry of its own for each caller, who closes it.
        return FolderRegistry(self.folder / name) if name in ("hub", "mirror") else None

    async def project(self, name: str, policy: dict[str, Any] | None = None, *, home: str = "depot") -> None:
        chosen = policies.from_json(policy or {"preset": "open"})
        async with self.database.transaction() as conn:
            await projects.create_project(
                conn,
                ADMIN,
                name=name,
                policy=policies.to_json(chosen),
                policy_hash=policies.policy_hash(chosen),
                trust_hash=policies.trust_hash([]),
            )
            await conn.execute(text("update projects set home = :h where name = :n"), {"h": home, "n": name})

    async def rule(
        self, name: str, source: str, target: str, *, project: str = "lab", on_admission: bool = False, **terms: Any
    ) -> Rule:
        schedule = terms.pop("schedule", None)
        async with self.database.transaction() as conn:
            made = await queries.insert_rule(
                conn,
                {
                    "name": name,
                    "project": project,
                    "project_id": None,
                    "source": source,
                    "target": target,
                    "terms": rules.normal_terms(terms, source=source, target=target),
                    "schedule": schedule,
                    "next_run_at": None if schedule is None else rules.next_time(schedule, self.now),
                    "on_admission": on_admission,
                    "created_by": "admin",
                },
            )
            assert made
            found = await queries.rule_by_name(conn, name)
        assert found is not None
        return found

    async def mark(self, registry: str, *, takes_open: bool) -> None:
        """Whether a registry takes versions of open projects; nobody is asked."""
        async with self.database.transaction() as conn:
            await conn.execute(
                text("update registries set takes_open = :open where name = :name"),
                {"open": takes_open, "name": registry},
            )

    async def decide(self, repository: str, digest: str, decision: str) -> None:
        """What a reviewer says about a version."""
        async with self.database.transaction() as conn:
            row = await catalog.repository(conn, repository)
            assert row is not None
            await evidence.decide_approval(
                conn, repository_id=row.id, digest=digest, decision=decision, principal="rita", note="", now=self.now
            )

    async def jobs(self, name: str) -> list[dict[str, Any]]:
        """Arguments of the waiting jobs of a kind; they are taken off the queue."""
        async with self.database.transaction() as conn:
            rows = await conn.execute(
                text(
                    "update procrastinate_jobs set status = 'cancelled' where task_name = :n and status = 'todo' "
                    "returning args"
                ),
                {"n": name},
            )
            return [row.args for row in rows]

    async def rows(self, query: str) -> list[Any]:
        async with self.database.reading() as conn:
            return list((await conn.execute(text(query))).all())


@pytest.fixture
async def lab(database: Database, tmp_path: Path) -> AsyncIterator[Lab]:
    store = FileStore(tmp_path / "depot", budget=TransferBudget(16 << 20), threads=2)
    made = Lab(database, store, tmp_path)
    async with database.transaction() as conn:
        for name in ("hub", "mirror"):
            await known.insert_registry(
                conn,
                name=name,
                kind="folder",
                url=(tmp_path / name).as_uri(),
                username=None,
                secret=None,
                options={},
                created_by="admin",
                takes_open=True,
            )
    yield made
    await made.hub.close()
    await made.mirror.close()
    store.close()
