"""How are big bodies hashed without holding up the event loop? In a small pool of threads of this room's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, TypeVar

from berth.oci import digest as digests

Result = TypeVar("Result")
# Below this a hop to another thread costs more than hashing here. A hop and its way back take as long as half a MiB of
# SHA-256; on two cores, which both ends of a transfer share with us, that is time taken from the transfer itself.
_INLINE_BYTES = 32 * 1024 if (os.cpu_count() or 1) > 2 else 2 * 1024 * 1024


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=4, thread_name_prefix="berth-wire")


class RunningDigest:
    """The digest of bytes as they pass."""

    def __init__(self, expected: str) -> None:
        self._expected = digests.parse(expected)
        self._hasher = digests.new_hasher(self._expected.algorithm)
        self.count = 0

    async def update(self, chunk: bytes | memoryview) -> None:
        self.count += len(chunk)
        if len(chunk) < _INLINE_BYTES:
            self._hasher.update(chunk)
        else:  # hashlib releases the interpreter lock, so other transfers go on meanwhile
            await asyncio.get_running_loop().run_in_executor(_pool(), self._hasher.update, chunk)

    def matches(self) -> bool:
        return self._hasher.hexdigest() == self._expected.encoded


async def in_thread(call: Callable[..., Result], *arguments: Any) -> Result:
    """Runs something that blocks (reading, writing a file) in this room's pool."""
    return await asyncio.get_running_loop().run_in_executor(_pool(), partial(call, *arguments))
