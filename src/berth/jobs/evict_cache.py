"""Is the depot larger than its bound? Then what was read longest ago and is safe elsewhere leaves it (R3)."""

from __future__ import annotations

from typing import Any, Final

import structlog

from berth.jobs.context import JobContext
from berth.sync.cache.evict import evict

NAME: Final = "evict_cache"
QUEUE: Final = "short"
EVERY: Final = "*/5 * * * *"

log = structlog.get_logger(__name__)


async def run(context: JobContext, **_: Any) -> None:
    """One look; nothing without BERTH_CACHE_BYTES. Safe to run twice and beside another run."""
    bound = context.settings.cache_bytes
    if bound == 0:
        return
    done = await evict(context.db, context.store, context.places.open, bound=bound, now=context.now())
    if done.blobs or done.kept:
        log.info("cache_evicted", blobs=done.blobs, bytes=done.bytes, kept=done.kept)
