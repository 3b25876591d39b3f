"""Fixtures of the API's tests: `world`, and `staffed`, a world with one project and somebody in each role."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from berth.access.roles import PROJECT_ROLES
from berth.adapters.stores.budget import TransferBudget
from berth.adapters.stores.files import FileStore
from berth.db.engine import Database
from tests.unit.server.api.world import World


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    opened = FileStore(tmp_path / "depot", budget=TransferBudget(32 << 20), threads=2)
    yield opened
    opened.close()


@pytest.fixture
async def world(database: Database, store: FileStore) -> World:
    return World(database, store)


@dataclass
class Staffed:
    """`tokens` by who holds them: each role of project `vision`, plus root, auditor, stranger."""

    world: World
    tokens: dict[str, str]


@pytest.fixture
async def staffed(world: World) -> Staffed:
    await world.project("vision", "open")
    await world.project("secret", "open")
    tokens = {
        "root": await world.principal("root", global_role="admin"),
        "auditor": await world.principal("auditor", global_role="auditor"),
        "stranger": await world.principal("stranger"),
    }
    for role in PROJECT_ROLES:
        tokens[role] = await world.principal(f"the-{role}")
        await world.member("vision", f"the-{role}", role)
    return Staffed(world, tokens)
