"""Cross-repository mount: link a blob without moving bytes, only for those who may GET it at its source."""

from __future__ import annotations

from datetime import timedelta

from berth.access.decide import Actor
from berth.catalog import queries as catalog
from berth.errors import Denied, NameInvalid
from berth.oci import reference
from berth.server.gateway import queries
from berth.server.gateway.admission import permit_blob
from berth.server.gateway.authenticate import unknown_name
from berth.server.gateway.exchange import Exchange


async def mount(exchange: Exchange, actor: Actor, name: str, digest: str, *, source: str) -> bool:
    """Link `digest` from `source` into `name`. False when the source has no such blob or may not be read there.

    The caller has checked the right to push to `name` and to pull from `source`.
    """
    try:
        reference.check_repository(source)
    except NameInvalid:
        return False
    now = exchange.services.clock()
    async with exchange.services.db.reading() as conn:
        facts = await queries.blob_facts(conn, source, digest, now)
    if facts is None:
        return False
    try:
        await permit_blob(exchange, actor, source, facts, documents=False)
    except Denied:
        return False
    lease = now + timedelta(seconds=exchange.services.settings.blob_lease_seconds)
    async with exchange.services.db.transaction() as conn:
        repository = await catalog.ensure_repository(conn, name)
        if repository is None:
            raise unknown_name(name)
        if not await catalog.lock_linked_blobs(conn, facts.repository_id, [digest]):
            return False
        if await catalog.homeless(conn, [digest]) or await catalog.unproven(conn, facts.repository_id, [digest]):
            return False
        await catalog.link_blob(conn, repository.id, digest)
        await catalog.renew_lease(conn, digest, lease, unless_after=lease)
    return True
