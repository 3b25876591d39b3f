"""What leaves the depot when it is full? What was read longest ago, and only what is safe elsewhere (design §6).

Right before a blob leaves, every version that holds it must have a copy that its registry shows us; of a copy that was
found there, whose bytes nobody here has seen, the bytes are read and compared. The row forgets the bytes first, then
they go under the digest's lock: a crash in between leaves a file that no row knows, which clean-up removes, never a row
without bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from berth import telemetry
from berth.adapters.registries.contract import Registry
from berth.adapters.stores.contract import BlobStore
from berth.db.engine import Database
from berth.errors import BerthError
from berth.sync.cache import queries
from berth.sync.cache.queries import Copy
from berth.wire.hashing import RunningDigest

PAGE: Final = 200
log = structlog.get_logger(__name__)

Open = Callable[[str], Awaitable[Registry]]


@dataclass
class Evicted:
    """What one look let go of, and what had to stay since no registry showed its copy."""

    blobs: int = 0
    bytes: int = 0
    kept: int = 0


async def evict(db: Database, store: BlobStore, open_registry: Open, *, bound: int, now: datetime) -> Evicted:
    """Let go of blobs until the depot holds no more than `bound` bytes, or nothing more may leave."""
    done = Evicted()
    async with db.reading() as conn:
        over = await queries.depot_bytes(conn) - bound
    if over <= 0:
        return done
    opened: dict[str, Registry | None] = {}
    place = (datetime(1, 1, 1, tzinfo=UTC), "")
    try:
        while done.bytes < over:
            async with db.reading() as conn:
                page = await queries.leaving(conn, now=now, after=place, limit=PAGE)
            for row in page:
                if done.bytes >= over:
                    break
                if not await _is_elsewhere(db, open_registry, opened, row.digest, row.size):
                    done.kept += 1
                elif await _let_go(db, store, row.digest, now):
                    done.blobs += 1
                    done.bytes += row.size
                    telemetry.metrics().evicted_bytes.inc(row.size)
            if len(page) < PAGE:
                break
            place = (page[-1].read_at, page[-1].digest)
    finally:
        for registry in opened.values():
            if registry is not None:
                await registry.close()
    return done


async def _is_elsewhere(
    db: Database, open_registry: Open, opened: dict[str, Registry | None], digest: str, size: int
) -> bool:
    """Whether each version that holds a blob has a copy whose registry shows the blob now."""
    async with db.reading() as conn:
        copies = await queries.copies(conn, digest)
    seen: dict[Copy, bool] = {}
    for held in copies.values():
        shown = False
        for copy in held:
            if copy not in seen:
                seen[copy] = await _shows(open_registry, opened, copy, digest, size)
            if seen[copy]:
                shown = True
                break
        if not shown:
            return False
    return bool(copies)


async def _shows(open_registry: Open, opened: dict[str, Registry | None], copy: Copy, digest: str, size: int) -> bool:
    name, repository = copy.registry, copy.repository
    try:
        if name not in opened:
            opened[name] = None
            opened[name] = await open_registry(name)
        registry = opened[name]
        if registry is None or await registry.blob_size(repository, digest) != size:
            return False
        return not copy.found or await _is_whole(registry, repository, digest)
    except BerthError as error:
        log.warning("copy_not_shown", registry=name, repository=repository, digest=digest, code=error.code)
        return False


async def _is_whole(registry: Registry, repository: str, digest: str) -> bool:
    running = RunningDigest(digest)
    async for piece in registry.blob(repository, digest):
        await running.update(piece)
    return running.matches()


async def _let_go(db: Database, store: BlobStore, digest: str, now: datetime) -> bool:
    async with db.transaction() as conn:
        # Held until the commit: who withdraws a copy later finds that the bytes are away, and brings them back first.
        await queries.copies(conn, digest, lock=True)
        location = await queries.let_go(conn, digest, now=now)
    if location is None:
        return False
    async with db.transaction() as conn:
        if await queries.is_away(conn, digest):
            await store.delete(location)
    return True
