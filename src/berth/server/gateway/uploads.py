"""`/v2/<name>/blobs/uploads/…`: single POST, POST + PUT, chunks with 416 recovery, status, cancel, mount.

An upload session is a row with the acknowledged offset. Bytes are fsynced before they are acknowledged, and a blob is
in its place on disk before the transaction that makes it visible commits; a crash in between leaves an orphan file
that clean-up finds, never a row without bytes (design §5).
"""

from __future__ import annotations

import secrets
from datetime import timedelta

from berth.access.decide import Actor
from berth.catalog import queries as catalog
from berth.catalog.blobs import check_digest, keep_blob, receive_blob
from berth.errors import Conflict, DigestInvalid, RangeInvalid, SizeInvalid, Unsupported, UploadUnknown
from berth.oci import digest as digests
from berth.server.gateway import queries
from berth.server.gateway.authenticate import actor_of, covers, require, unknown_name
from berth.server.gateway.exchange import Exchange, SenderGone
from berth.server.gateway.mounts import mount
from berth.server.gateway.queries import UploadRow
from berth.server.gateway.writers import WRITERS


async def start(exchange: Exchange) -> None:
    """POST: mount, single-request upload, or a new session (202)."""
    name = exchange.route["name"]
    if exchange.method != "POST":
        raise Unsupported(f"{exchange.method} is not possible here.")
    async with exchange.services.db.reading() as conn:
        actor = await actor_of(exchange, conn)
    await require(exchange, actor, name, "push")
    wanted = exchange.one("mount")
    if wanted is not None:
        digest = str(digests.parse(wanted))
        source = exchange.one("from")
        if source and covers(actor, source, "pull") and await mount(exchange, actor, name, digest, source=source):
            await exchange.answer(201, _created(exchange, name, digest))
            return
    digest_parameter = exchange.one("digest")
    if digest_parameter is not None and wanted is None:
        await _single_post(exchange, actor, name, str(digests.parse(digest_parameter)))
        return
    algorithm = exchange.one("digest-algorithm") or "sha256"
    if algorithm not in digests.ALGORITHMS:
        raise DigestInvalid(f"Digest algorithm '{algorithm[:20]}' is not supported.", hint="Use sha256 or sha512.")
    upload_id = secrets.token_urlsafe(24)
    location = await exchange.services.store.create_upload(upload_id)
    async with exchange.services.db.transaction() as conn:
        repository = await catalog.ensure_repository(conn, name)
        if repository is not None:
            await queries.insert_upload(
                conn,
                upload_id=upload_id,
                repository_id=repository.id,
                location=location,
                algorithm=algorithm,
                by=actor.name or "",
            )
    if repository is None:
        await exchange.services.store.delete(location)
        raise unknown_name(name)
    await exchange.answer(202, _progress(name, upload_id, 0))


async def handle(exchange: Exchange) -> None:
    """GET status, PATCH chunk, PUT close, DELETE cancel."""
    name, upload_id = exchange.route["name"], exchange.route["upload"]
    async with exchange.services.db.reading() as conn:
        actor = await actor_of(exchange, conn)
        row = await queries.upload(conn, upload_id, name)
    await require(exchange, actor, name, "push")
    if row is None:
        raise UploadUnknown(f"There is no upload {upload_id} in {name}.", hint="Start the upload again.")
    if exchange.method == "GET" or exchange.method == "HEAD":
        await exchange.answer(204, _progress(name, upload_id, row.acknowledged))
    elif exchange.method == "DELETE":
        await _cancel(exchange, upload_id, row)
    elif exchange.method in ("PATCH", "PUT"):
        async with WRITERS.hold(upload_id) as writer:
            async with exchange.services.db.transaction() as conn:
                taken = await queries.take_fence(conn, upload_id)
            if taken is None:
                raise UploadUnknown(f"There is no upload {upload_id} in {name}.", hint="Start the upload again.")
            _check_range(exchange, name, taken)
            size = taken.acknowledged
            if exchange.method == "PATCH" or exchange.headers.get("content-length", "") != "0":
                appended = await exchange.services.store.append(
                    taken.location,
                    upload_id=upload_id,
                    algorithm=taken.algorithm,
                    offset=taken.acknowledged,
                    chunks=writer.chunks(exchange),
                )
                size = appended.size
                async with exchange.services.db.transaction() as conn:
                    held = await queries.acknowledge(conn, upload_id, fence=taken.fence, size=size)
                if writer.replaced() or not held:
                    raise Conflict("Another request has taken this upload over.", hint="Ask for its status.")
                if not appended.complete:
                    raise SenderGone("the client closed the connection")
            if exchange.method == "PATCH":
                await exchange.answer(202, _progress(name, upload_id, size))
            else:
                await _close(exchange, name, taken, size)
    else:
        raise Unsupported(f"{exchange.method} is not possible for an upload.")


async def _single_post(exchange: Exchange, actor: Actor, name: str, digest: str) -> None:
    """The whole blob in the POST: no session row is needed, a broken connection leaves nothing."""
    async with exchange.services.db.transaction() as conn:
        repository = await catalog.ensure_repository(conn, name)
    if repository is None:
        raise unknown_name(name)
    services = exchange.services
    complete = await receive_blob(
        services.db,
        services.store,
        repository_id=repository.id,
        digest=digest,
        chunks=exchange.chunks(),
        now=services.clock(),
        lease=timedelta(seconds=services.settings.blob_lease_seconds),
    )
    if not complete:
        raise SenderGone("the client closed the connection")
    await exchange.answer(201, _created(exchange, name, digest))


async def _close(exchange: Exchange, name: str, row: UploadRow, size: int) -> None:
    text = exchange.one("digest")
    if text is None:
        raise DigestInvalid("The closing PUT has no digest parameter.", hint="Append ?digest=sha256:… to the Location.")
    digest = str(digests.parse(text))
    store = exchange.services.store
    algorithm = digests.parse(digest).algorithm
    found = await store.digest_of_upload(row.location, upload_id=row.id, algorithm=algorithm, size=size)
    try:
        check_digest(found, digest)
    except DigestInvalid:
        async with exchange.services.db.transaction() as conn:
            await queries.drop_upload(conn, row.id)
        await store.delete(row.location)
        raise
    async with exchange.services.db.transaction() as conn:
        if not await queries.drop_upload(conn, row.id, fence=row.fence):
            raise UploadUnknown("Another request has finished or cancelled this upload.")
        await keep_blob(
            conn,
            store,
            repository_id=row.repository_id,
            digest=digest,
            location=row.location,
            size=size,
            now=exchange.services.clock(),
            lease=timedelta(seconds=exchange.services.settings.blob_lease_seconds),
        )
    await store.delete(row.location)
    await exchange.answer(201, _created(exchange, name, digest))


async def _cancel(exchange: Exchange, upload_id: str, row: UploadRow) -> None:
    async with WRITERS.hold(upload_id):
        async with exchange.services.db.transaction() as conn:
            await queries.drop_upload(conn, upload_id)
        await exchange.services.store.delete(row.location)
    await exchange.answer(204)


def _check_range(exchange: Exchange, name: str, row: UploadRow) -> None:
    """A chunk must start where the last one ended. Raises RangeInvalid with the place to go on from."""
    header = exchange.headers.get("content-range")
    if header is None:
        return
    first, dash, last = header.strip().removeprefix("bytes ").partition("/")[0].partition("-")
    if not (dash and first.isdigit() and last.isdigit()) or int(last) < int(first):
        raise SizeInvalid(
            f"Content-Range '{header[:50]}' is malformed.", hint="Use <first>-<last>, for example 0-1023."
        )
    if int(first) != row.acknowledged:
        raise RangeInvalid(
            f"This chunk starts at byte {first}; the upload goes on at byte {row.acknowledged}.",
            hint="Ask for the upload's status and resume from its Range.",
            detail={"headers": _progress(name, row.id, row.acknowledged)},
        )
    length = exchange.headers.get("content-length")
    if length is not None and length.isdigit() and int(length) != int(last) - int(first) + 1:
        raise SizeInvalid(f"Content-Range '{header[:50]}' does not fit Content-Length {length}.")


def _progress(name: str, upload_id: str, size: int) -> dict[str, str]:
    return {
        "Location": f"/v2/{name}/blobs/uploads/{upload_id}",
        "Range": f"0-{max(0, size - 1)}",
        "Docker-Upload-UUID": upload_id,
    }


def _created(exchange: Exchange, name: str, digest: str) -> dict[str, str]:
    return {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
