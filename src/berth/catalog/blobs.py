"""How do uploaded bytes become a blob of a repository? Under the digest's lock, as clean-up does (design §5)."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.adapters.stores.contract import BlobStore
from berth.catalog import queries


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
    state = await queries.blob_state(conn, digest)
    if state == "live":
        await queries.renew_lease(conn, digest, now + lease, unless_after=now + lease)
    else:
        place = await store.promote(location, digest)
        if state == "deleting":
            await queries.revive_blob(conn, digest=digest, location=place, lease_until=now + lease)
        else:
            await queries.insert_blob(conn, digest=digest, size=size, location=place, lease_until=now + lease)
    await queries.link_blob(conn, repository_id, digest)
