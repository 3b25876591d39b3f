"""How much memory may transfers hold? One budget per process, shared by all uploads and downloads (design §5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

BATCH = 16 << 20
SMALLEST_BATCH = 256 << 10
READ_SHARE = 2 << 20


class TransferBudget:
    """Shares `total` bytes among active transfers: one batch is written while the next one arrives, so an upload
    holds two; a download holds a piece in the thread and one in the socket's buffer."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._uploads = 0
        # More transfers than this would break the budget even with the smallest batches: they wait their turn.
        self._upload_slots = asyncio.Semaphore(max(1, total // 2 // (2 * SMALLEST_BATCH)))
        self._read_slots = asyncio.Semaphore(max(1, total // 2 // READ_SHARE))

    def _share(self) -> int:
        fair = self.total // 2 // max(1, 2 * self._uploads)
        return max(SMALLEST_BATCH, min(BATCH, fair))

    @asynccontextmanager
    async def transfer(self) -> AsyncIterator[Callable[[], int]]:
        """Take part as an upload; the yielded function tells the batch size that is fair right now, in bytes."""
        async with self._upload_slots:
            self._uploads += 1
            try:
                yield self._share
            finally:
                self._uploads -= 1

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Take part as a download."""
        async with self._read_slots:
            yield
