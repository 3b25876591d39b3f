"""How much moves at once? Shared limits of one run: blobs side by side, bytes per second, who holds which blob."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar
from weakref import WeakValueDictionary

from berth.errors import Conflict, Unavailable

T = TypeVar("T")
# Told the number of bytes that just moved.
Progress = Callable[[int], None]

KNOWN_BLOBS: Final = 20_000
# How long a copy waits for a database that was restarted: about a minute.
DATABASE_WAITS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


class Cancelled(Conflict):
    """Somebody asked for the run to stop; what is whole at the target stays there."""

    code = "cancelled"


class HeldBack(Cancelled):
    """A version must not have its name at the target after all; the rest of the run goes on."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one copy or of all copies of one run.

    Attributes:
        blobs: how many blobs move at once; each takes one chunk of memory on either side.
        bytes_per_second: over all blobs together; None = as fast as it goes.
        attempts: how often a blob or manifest is tried when the failure may pass.
    """

    blobs: int = 6
    bytes_per_second: int | None = None
    attempts: int = 4


class Journal(Protocol):
    """Remembers how far a copy got, durably. Its answer says whether to go on."""

    async def wanted(self) -> bool:
        """False when the copy is to stop."""
        ...

    async def planned(self, blobs: int, size: int) -> None:
        """So many blobs, of so many bytes together, come next; said again for evidence that is found later."""
        ...

    async def whole(self, digest: str, *, size: int, sent: int) -> None:
        """A blob is whole at the target; `sent` bytes moved for it, 0 when it was there or could be mounted."""
        ...

    async def naming(self) -> None:
        """The version is whole at the target, and gets its name now. Raises HeldBack where it must not have it."""
        ...

    async def unfinished(self, repository: str, digest: str) -> str | None:
        """The session of an upload that broke, when an earlier try left one at the target."""
        ...

    async def keep(self, repository: str, digest: str, *, session: str | None, offset: int) -> None:
        """The target has so many bytes of a blob, in this session; None: the upload has ended or is to start anew."""
        ...


class NoJournal:
    """For copies that nobody watches."""

    async def wanted(self) -> bool:
        return True

    async def planned(self, blobs: int, size: int) -> None:
        return None

    async def whole(self, digest: str, *, size: int, sent: int) -> None:
        return None

    async def naming(self) -> None:
        return None

    async def unfinished(self, repository: str, digest: str) -> str | None:
        return None

    async def keep(self, repository: str, digest: str, *, session: str | None, offset: int) -> None:
        return None


async def go_on(journal: Journal) -> None:
    """Raises Cancelled when somebody wants the copy to stop."""
    if not await journal.wanted():
        raise Cancelled("The copy was stopped.")


async def lasting(do: Callable[[], Awaitable[T]], *, sleep: Callable[[float], Awaitable[None]]) -> T:
    """Write something down, however long the database takes to come back: what has moved is worth the wait."""
    for wait in DATABASE_WAITS:
        try:
            return await do()
        except Unavailable:
            await sleep(wait)
    return await do()


class Flow:
    """The limits at work, shared by all copies of one run."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or Limits()
        self.slots = asyncio.Semaphore(self.limits.blobs)
        self.sleep = sleep
        self.clock = clock
        self._free_at = 0.0
        self._places: OrderedDict[str, str] = OrderedDict()
        self._moving: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def alone(self, digest: str) -> AsyncIterator[None]:
        """Nobody else of this run moves this blob meanwhile: who comes after finds it there, or has it mounted."""
        lock = self._moving.setdefault(digest, asyncio.Lock())
        async with lock:
            yield

    async def pass_bytes(self, count: int) -> None:
        """Wait until `count` bytes may move without exceeding the rate."""
        rate = self.limits.bytes_per_second
        if rate is None:
            return
        now = self.clock()
        wait = max(0.0, self._free_at - now)
        self._free_at = max(now, self._free_at) + count / rate
        if wait > 0:
            await self.sleep(wait)

    def remember(self, digest: str, repository: str) -> None:
        """A repository of the target holds this blob: others there may mount it."""
        self._places[digest] = repository
        self._places.move_to_end(digest)
        if len(self._places) > KNOWN_BLOBS:
            self._places.popitem(last=False)

    def holder(self, digest: str) -> str | None:
        """A repository of the target that is known to hold this blob."""
        return self._places.get(digest)
