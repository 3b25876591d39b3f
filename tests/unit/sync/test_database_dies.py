"""PostgreSQL is killed while a version is copied: the copy waits for it, and nothing is sent twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterable
from pathlib import Path

from berth.adapters.stores.budget import TransferBudget
from berth.adapters.stores.files import FileStore
from berth.db.embedded import EmbeddedPostgres
from berth.db.engine import Database
from berth.sync import runs
from tests.support.postgres import Databases
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import Faulty, push_image
from tests.unit.sync.test_runs import ended, outcome, start

LAYERS = [bytes([n]) * 10_000 for n in range(1, 9)]


async def test_a_killed_database_costs_a_copy_nothing(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "pg") as server:
        databases = Databases(server)
        database = Database(databases.service_url(databases.create()), pool_size=3)
        store = FileStore(tmp_path / "depot", budget=TransferBudget(1 << 20), threads=1)
        lab = Lab(database, store, tmp_path)
        revived: list[asyncio.Task[None]] = []

        class Killing(Faulty):
            async def push_blob(self, repository: str, digest: str, *, size: int, chunks: AsyncIterable[bytes]) -> None:
                if len(self.blobs) == 3 and not revived:
                    assert server.pid is not None
                    os.kill(server.pid, signal.SIGKILL)
                    revived.append(asyncio.create_task(asyncio.to_thread(revive)))
                await super().push_blob(repository, digest, size=size, chunks=chunks)

        def revive() -> None:
            while server.poll() is None:
                pass
            server.start()

        await push_image(lab.hub, "lab/net", "1.0.0", layers=LAYERS)
        rule = await lab.rule("over", "hub", "mirror", model="net", parallel_blobs=1)
        run_id = await start(lab, rule)
        lab.faults["mirror"] = killing = Killing(lab.mirror)
        await runs.carry_out(database, lab.places, run_id, now=lab.clock)
        await revived[0]
        run, items = await ended(database, run_id)
        assert (run.state, outcome(items)) == ("succeeded", {"1.0.0": ("copy", "done")})
        assert len(killing.blobs) == len(set(killing.blobs)) == len(LAYERS) + 1
        assert await lab.mirror.stat("lab/net", "1.0.0") is not None
        await database.close()
        store.close()
