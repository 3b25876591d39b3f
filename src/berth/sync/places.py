"""Which registry does a name mean? Our own depot, a registry of the table, or a folder of this machine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from berth.adapters.registries.contract import Registry
from berth.adapters.stores.contract import BlobStore
from berth.db.engine import Database
from berth.errors import Forbidden, InvalidInput, NotFound
from berth.sync.cache.fetcher import Fetcher
from berth.sync.cache.opened import Opener
from berth.sync.depot import DepotRegistry
from berth.sync.rules import DEPOT, FOLDER

# Who is recorded as pusher of what a rule brings in.
PRINCIPAL: Final = "sync"


class RegistryDirectory(Protocol):
    """Opens registries by name; whoever opens one closes it."""

    async def open(self, name: str) -> Registry:
        """Raises NotFound: there is no registry of that name. Forbidden: a folder, where folders are not for you."""
        ...


class Places:
    """The registries that the service knows.

    Args:
        remote: opens those of the table; without it there is only the depot.
        fetcher: brings what the depot lacks of its content; default: one of its own.
        folder: opens `folder:/path`. Left out wherever somebody else than the machine's administrator chooses the
            name, or a maintainer could read and write any folder of the machine.
    """

    def __init__(
        self,
        db: Database,
        store: BlobStore,
        *,
        clock: Callable[[], datetime],
        remote: Opener | None = None,
        folder: Callable[[Path], Registry] | None = None,
        fetcher: Fetcher | None = None,
    ) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._remote = remote
        self._folder = folder
        self.fetcher = fetcher or Fetcher(db, store, remote=remote, clock=clock)

    async def open(self, name: str) -> Registry:
        if name == DEPOT:
            return DepotRegistry(self._db, self._store, clock=self._clock, fetcher=self.fetcher, principal=PRINCIPAL)
        if name.startswith(FOLDER):
            return self._open_folder(name)
        found = None if self._remote is None else await self._remote(name)
        if found is None:
            raise NotFound(f"There is no registry '{name}'.", hint="berth registry add makes one known.")
        return found

    def _open_folder(self, name: str) -> Registry:
        if self._folder is None:
            raise Forbidden(
                "A folder of the service's machine cannot be named like this.",
                hint="An administrator makes it known first: berth registry add NAME --kind folder.",
            )
        path = Path(name.removeprefix(FOLDER))
        if not path.is_absolute():
            raise InvalidInput(f"'{name}' does not name an absolute path.", hint="Write folder:/some/path.")
        return self._folder(path)
