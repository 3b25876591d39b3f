"""What may a job use? The parts that `wiring.job_context` picked, and the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from berth.adapters.scanners.contract import VulnerabilityScanner, WeightScanner
    from berth.adapters.stores.contract import BlobStore
    from berth.db.engine import Database
    from berth.db.sealing import Sealer
    from berth.settings import ServiceSettings
    from berth.sync.cache.fetcher import Fetcher
    from berth.sync.places import RegistryDirectory


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class JobContext:
    """Handed to every `run`. The clock is a field, so that tests set the time.

    `registries` opens other registries by name; without it jobs know the depot only. `sealer` seals what must not be
    readable in the database; without it, broken uploads to other registries are not remembered.
    """

    db: Database
    store: BlobStore
    vulnerability_scanner: VulnerabilityScanner
    weight_scanner: WeightScanner
    settings: ServiceSettings
    now: Callable[[], datetime] = utc_now
    registries: RegistryDirectory | None = None
    fetcher: Fetcher | None = None
    sealer: Callable[[], Sealer] | None = None

    @property
    def cache(self) -> Fetcher:
        """What brings blobs of other registries into the depot; without any, it knows none."""
        from berth.sync.cache.fetcher import Fetcher

        return self.fetcher or Fetcher(self.db, self.store, remote=None, clock=self.now)

    @property
    def places(self) -> RegistryDirectory:
        """What opens a registry by its name, the depot included."""
        from berth.sync.places import Places

        return self.registries or Places(self.db, self.store, clock=self.now)
