"""A process that carries out one run as a worker does, to be killed: `sync_process DATABASE RUN SOURCE TARGET`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Registry, RegistrySettings
from berth.adapters.stores.budget import TransferBudget
from berth.adapters.stores.files import FileStore
from berth.db.engine import Database
from berth.db.sealing import Sealer
from berth.sync.places import Places
from berth.sync.runs import carry_out


async def main(database_url: str, run_id: int, urls: dict[str, str]) -> None:
    async def remote(name: str) -> Registry:
        return Registries().open(RegistrySettings(name, "distribution", urls[name]))

    database = Database(database_url, pool_size=4)
    with TemporaryDirectory() as folder:
        store = FileStore(Path(folder), budget=TransferBudget(1 << 20), threads=1)
        places = Places(database, store, clock=lambda: datetime.now(UTC), remote=remote)
        # The same key in each process, as if from one file.
        sealer = Sealer(b"the key of all processes of this story")
        await carry_out(database, places, run_id, now=lambda: datetime.now(UTC), sealer=lambda: sealer)
        store.close()
    await database.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), {"hub": sys.argv[3], "harbour": sys.argv[4]}))
