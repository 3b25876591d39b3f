"""`/v2/<name>/blobs/<digest>`: HEAD, GET with Range, DELETE."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Final

from berth import telemetry
from berth.access import audit
from berth.access.decide import ANONYMOUS, decide
from berth.catalog import queries as catalog
from berth.catalog import removal
from berth.errors import BlobUnknown, RangeInvalid, Unsupported
from berth.server.gateway import queries
from berth.server.gateway.admission import Leave, permit_blob
from berth.server.gateway.authenticate import actor_of, known, lookup_of, require, unknown_name
from berth.server.gateway.exchange import Exchange
from berth.server.gateway.queries import BlobFacts
from berth.sync.cache import queries as fetches

# That a blob was read is written down at most so often.
READ_AGAIN: Final = timedelta(hours=1)

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def handle(exchange: Exchange) -> None:
    """Dispatch by method. Raises Unsupported for others."""
    exchange.digest()
    if exchange.method in ("GET", "HEAD"):
        await _read(exchange)
    elif exchange.method == "DELETE":
        await _delete(exchange)
    else:
        raise Unsupported(f"{exchange.method} is not possible for a blob.")


async def _read(exchange: Exchange) -> None:
    name, digest = exchange.route["name"], exchange.digest()
    now = exchange.services.clock()
    lookup = lookup_of(exchange)
    if lookup is None:
        await require(exchange, ANONYMOUS, name, "pull")
        return
    async with exchange.services.db.reading() as conn:
        found, facts = await queries.actor_and_blob(conn, lookup, name, digest, now)
    actor = known(found)
    pushing = exchange.method == "HEAD" and decide(actor, "version.push", name.partition("/")[0]).allowed
    await require(exchange, actor, name, "pull")
    if facts is None:
        raise BlobUnknown(f"{name} has no blob {digest}.")
    headers = {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": digest,
        "Accept-Ranges": "bytes",
        "ETag": f'"{digest}"',
        "Cache-Control": "private, max-age=0, must-revalidate",
    }
    leave = Leave()
    if pushing:
        # A pusher who learns that the blob is here will not send it: it must stay until the manifest arrives.
        lease = timedelta(seconds=exchange.services.settings.blob_lease_seconds)
        async with exchange.services.db.transaction() as conn:
            if facts.location is None and await catalog.homeless(conn, [digest]):
                raise BlobUnknown(f"{name} has lost {digest}.", hint="Push it again.")
            await catalog.renew_lease(conn, digest, now + lease, unless_after=now + lease / 2)
    else:
        leave = await permit_blob(exchange, actor, name, facts)
        if leave.quarantined:
            headers["Warning"] = '299 - "this content is in quarantine"'
    start, length = _window(exchange.headers.get("range"), facts.size)
    status = 200
    if length != facts.size:
        status = 206
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{facts.size}"
    headers["Content-Length"] = str(length)
    if exchange.method == "HEAD" or length == 0:
        await exchange.start(status, headers)
        await exchange.end()
        return
    if facts.location is None and not leave.quarantined and await _redirected(exchange, facts):
        return
    source, pieces = await _opened(exchange, facts, start, length)
    async with aclosing(pieces):
        # The first piece is there before the headers go out: what cannot be read is an error, not a broken stream.
        piece = await anext(pieces)
        await exchange.start(status, headers)
        await exchange.write(piece)
        async for piece in pieces:
            await exchange.write(piece)
        await exchange.end()
    telemetry.metrics().blob_reads.labels(source).inc()
    if now - facts.read_at > READ_AGAIN:
        async with exchange.services.db.transaction() as conn:
            await fetches.touch(conn, digest, now=now, unless_after=now - READ_AGAIN)


async def _redirected(exchange: Exchange, facts: BlobFacts) -> bool:
    """Send an admitted reader to where the bytes lie, if a registry that holds them may be used so."""
    url = await exchange.services.cache.redirect(facts.digest, repository_id=facts.repository_id)
    if url is None:
        return False
    await exchange.answer(307, {"Location": url, "Docker-Content-Digest": facts.digest, "Cache-Control": "no-store"})
    telemetry.metrics().blob_reads.labels("redirect").inc()
    return True


async def _opened(
    exchange: Exchange, facts: BlobFacts, start: int, length: int
) -> tuple[str, AsyncGenerator[bytes, None]]:
    """Where the bytes come from, and they themselves. Part of a blob that is not here waits for the verified whole."""
    if facts.location is not None:
        return "depot", _read_depot(exchange, facts, facts.location, start, length)
    cache = exchange.services.cache
    if length == facts.size:
        return "registry", cache.stream(facts.digest, repository_id=facts.repository_id)
    location = await cache.ensure(facts.digest, repository_id=facts.repository_id)
    return "registry", _read_depot(exchange, facts, location, start, length)


async def _read_depot(
    exchange: Exchange, facts: BlobFacts, location: str, start: int, length: int
) -> AsyncGenerator[bytes, None]:
    begun = False
    try:
        async for piece in exchange.services.store.read(location, start=start, length=length):
            begun = True
            yield piece
    except BlobUnknown:
        if begun:
            raise
        # It has left the depot since we asked where it is.
        location = await exchange.services.cache.ensure(facts.digest, repository_id=facts.repository_id)
        async for piece in exchange.services.store.read(location, start=start, length=length):
            yield piece


def _window(header: str | None, size: int) -> tuple[int, int]:
    """(first byte, number of bytes) for a Range header; the whole blob for none, several or malformed ones.

    Raises RangeInvalid when no byte of the blob is in the range (RFC 9110 §14.1.1, §15.5.17).
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return 0, size
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size - 1
        usable = int(last) > 0 and size > 0
    else:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
        if last and int(last) < int(first):
            return 0, size
        usable = start < size
    if not usable:
        raise RangeInvalid(
            f"The blob has {size} bytes; {header} is outside.",
            detail={"headers": {"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"}},
        )
    return start, end - start + 1


async def _delete(exchange: Exchange) -> None:
    name, digest = exchange.route["name"], exchange.digest()
    async with exchange.services.db.reading() as conn:
        actor = await actor_of(exchange, conn)
    await require(exchange, actor, name, "delete")
    async with exchange.services.db.transaction() as conn:
        repository = await catalog.repository(conn, name)
        if repository is None:
            raise unknown_name(name)
        await removal.delete_blob(conn, repository, digest)
        await audit.record(
            conn,
            actor=actor,
            action="version.delete",
            project=repository.project,
            object=f"{name}@{digest}",
            outcome="done",
            detail={"what": "blob"},
        )
    await exchange.answer(202)
