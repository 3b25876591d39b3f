"""What does a request handler need? One frozen bundle, built by `wiring`, found at `app.state.services`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from berth.adapters.registries.contract import RegistryFactory
from berth.adapters.stores.contract import BlobStore
from berth.db.engine import Database
from berth.settings import ServiceSettings


@dataclass(frozen=True)
class Services:
    """Database, depot, settings, the secret that signs bearer tokens, the clock (UTC), and what opens registries."""

    db: Database
    store: BlobStore
    settings: ServiceSettings
    bearer_secret: bytes
    clock: Callable[[], datetime]
    registries: RegistryFactory | None = None
