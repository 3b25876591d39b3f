"""The gateway in process, on a real database and a real depot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from berth.access import users
from berth.adapters.stores.budget import TransferBudget
from berth.adapters.stores.files import FileStore
from berth.catalog import record
from berth.db.engine import Database
from berth.server.gateway.app import Gateway
from berth.server.services import Services
from berth.settings import ServiceSettings
from tests.unit.server.gateway.registry import Installation, utc


@pytest.fixture
async def installation(database: Database, tmp_path: Path) -> AsyncIterator[Installation]:
    store = FileStore(tmp_path / "depot", budget=TransferBudget(16 << 20), threads=2)
    async with database.transaction() as conn:
        secret = await users.ensure_bearer_secret(conn)
        await record.pin_empty_config(conn, await store.put_bytes(b"{}"))
    services = Services(database, store, ServiceSettings(data=tmp_path), secret, utc)
    transport = httpx.ASGITransport(app=Gateway(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://berth.test") as http:
        yield Installation(services, http)
    store.close()
