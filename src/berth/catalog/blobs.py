"""How do bytes become a blob of a repository? Received and hashed, then kept under the digest's lock (design §5)."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.adapters.stores.contract import BlobStore
from berth.catalog import queries
from berth.db.engine import Database
from berth.errors import DigestInvalid
from berth.oci import digest as digests


async def receive_blob(
    db: Database,
    store: BlobStore,
    *,
    repository_id: int,
    digest: str | None,
    chunks: AsyncIterable[bytes],
    now: datetime,
    lease: timedelta,
    size: int | None = None,
) -> str | None:
    """A whole blob in one go: no session row is needed, and whatever breaks off leaves nothing.

    Args:
        digest: None takes whatever comes.

    Returns:
        Its digest; None when the sender went away (`chunks` raised ConnectionError).

    Raises:
        DigestInvalid: other bytes came than `digest` (and `size`) name.
    """
    algorithm = "sha256" if digest is None else digests.parse(digest).algorithm
    upload_id = secrets.token_urlsafe(24)
    location = await store.create_upload(upload_id)
    try:
        appended = await store.append(location, upload_id=upload_id, algorithm=algorithm, offset=0, chunks=chunks)
        if not appended.complete:
            return None
        found = await store.digest_of_upload(location, upload_id=upload_id, algorithm=algorithm, size=appended.size)
        check_digest(found, digest or found)
        if size is not None and appended.size != size:
            raise DigestInvalid(f"{found} has {appended.size} bytes, not {size}.")
        async with db.transaction() as conn:
            await keep_blob(
                conn,
                store,
                repository_id=repository_id,
                digest=found,
                location=location,
                size=appended.size,
                now=now,
                lease=lease,
            )
    finally:
        await store.delete(location)  # nothing is there any more when it was promoted
    return found


def check_digest(found: str, wanted: str) -> None:
    """Raises DigestInvalid unless they are the same."""
    if found != wanted:
        raise DigestInvalid(
            f"The uploaded bytes have digest {found}, not {wanted}.",
            hint="Nothing was stored; send the blob again.",
            detail={"found": found, "wanted": wanted},
        )


async def keep_blob(
    conn: AsyncConnection,
    store: BlobStore,
    *,
    repository_id: int,
    digest: str,
    location: str,
    size: int,
    now: datetime,
    lease: timedelta,
) -> None:
    """Bring verified bytes from an upload's location to their place, make the row and link it to the repository.

    The bytes are durable in their place before this transaction can commit. When the depot has the blob already, the
    upload is left where it is for the caller to delete.
    """
    row = await queries.blob_state(conn, digest)
    if row is not None and row.state == "live" and row.location is not None:
        await queries.renew_lease(conn, digest, now + lease, unless_after=now + lease)
    else:
        place = await store.promote(location, digest)
        if row is not None:
            await queries.revive_blob(conn, digest=digest, size=size, location=place, lease_until=now + lease)
        else:
            await queries.insert_blob(conn, digest=digest, size=size, location=place, lease_until=now + lease)
    await queries.link_blob(conn, repository_id, digest)
