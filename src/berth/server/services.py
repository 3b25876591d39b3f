"""What does a request handler need? One frozen bundle, built by `wiring`, found at `app.state.services`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from berth.adapters.registries.contract import RegistryFactory
from berth.adapters.stores.contract import BlobStore
from berth.db.engine import Database
from berth.settings import ServiceSettings
from berth.sync.cache.fetcher import Fetcher


@dataclass(frozen=True)
class Services:
    """Database, depot, settings, the secret of bearer tokens, the clock (UTC), what opens registries, what fetches."""

    db: Database
    store: BlobStore
    settings: ServiceSettings
    bearer_secret: bytes
    clock: Callable[[], datetime]
    registries: RegistryFactory | None = None
    fetcher: Fetcher | None = None

    @property
    def cache(self) -> Fetcher:
        """What brings blobs of other registries into the depot; without any, it knows none."""
        return self.fetcher or Fetcher(self.db, self.store, remote=None, clock=self.clock)
