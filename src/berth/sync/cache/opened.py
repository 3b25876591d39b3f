"""Which registries are open now? Kept for a minute, so that many blobs in a row share connections and tokens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from berth.adapters.registries.contract import Registry
from berth.errors import NotFound

# Changed credentials and addresses are used after so long at the latest.
KEPT_SECONDS: Final = 60.0

# Opens a registry of the table by its name; None when there is none of that name.
Opener = Callable[[str], Awaitable[Registry | None]]


@dataclass
class _Open:
    registry: Registry
    since: float
    users: int = 0
    retired: bool = False


class Opened:
    """Open registries by name."""

    def __init__(self, remote: Opener | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._remote = remote
        self._clock = clock
        self._open: dict[str, _Open] = {}

    @asynccontextmanager
    async def borrow(self, name: str) -> AsyncIterator[Registry]:
        """A registry, for as long as the block lasts. Raises NotFound."""
        entry = self._open.get(name)
        if entry is None or self._clock() - entry.since > KEPT_SECONDS:
            found = None if self._remote is None else await self._remote(name)
            if found is None:
                raise NotFound(f"There is no registry '{name}'.")
            await self._retire(self._open.pop(name, None))
            entry = self._open[name] = _Open(found, self._clock())
        entry.users += 1
        try:
            yield entry.registry
        finally:
            entry.users -= 1
            if entry.retired and not entry.users:
                await entry.registry.close()

    async def close(self) -> None:
        for name in list(self._open):
            await self._retire(self._open.pop(name))

    async def _retire(self, entry: _Open | None) -> None:
        if entry is None:
            return
        entry.retired = True
        if not entry.users:
            await entry.registry.close()
