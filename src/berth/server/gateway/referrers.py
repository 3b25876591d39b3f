"""`/v2/<name>/referrers/<digest>`: what refers to a manifest, with `artifactType` filter and paging.

Readers of a quarantined subject learn nothing about it; developers see its evidence (design §6 "Reads in quarantine").
"""

from __future__ import annotations

from urllib.parse import urlencode

from berth.access.decide import decide
from berth.catalog import queries as catalog
from berth.errors import Unsupported
from berth.oci import media_types as types
from berth.oci import referrers
from berth.oci.descriptor import Descriptor
from berth.server.gateway import queries
from berth.server.gateway.admission import permit_manifest
from berth.server.gateway.authenticate import actor_of, require, unknown_name
from berth.server.gateway.base import page_size
from berth.server.gateway.exchange import Exchange

PAGE = 500


async def handle(exchange: Exchange) -> None:
    """GET or HEAD of the referrers of a digest; an unknown digest has an empty list, never a 404."""
    name, digest = exchange.route["name"], exchange.digest()
    if exchange.method not in ("GET", "HEAD"):
        raise Unsupported(f"{exchange.method} is not possible here.")
    wanted = exchange.one("artifactType")
    limit = page_size(exchange, PAGE) or PAGE
    now = exchange.services.clock()
    async with exchange.services.db.reading() as conn:
        actor = await actor_of(exchange, conn)
        repository = await catalog.repository(conn, name)
        # A repository that was never pushed to has no referrers; that is an answer, not an error (spec end-12).
        known = repository is not None or await queries.project_exists(conn, name.partition("/")[0])
        subject = await queries.manifest_facts(conn, name, digest, now, by_digest=True)
        rows = []
        if repository is not None:
            rows = await queries.referrers(
                conn,
                repository.id,
                digest,
                artifact_type=wanted,
                after=exchange.one("last") or "",
                limit=limit + 1,
            )
    await require(exchange, actor, name, "pull")
    if repository is None and not known:
        raise unknown_name(name)
    if subject is not None:
        await permit_manifest(exchange, actor, name, subject)
    project = name.partition("/")[0]
    insider = (repository is not None and repository.open_project) or decide(
        actor, "quarantine.manifest.read", project
    ).allowed
    headers = {"Content-Type": types.OCI_INDEX}
    if wanted is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    if len(rows) > limit:
        rows = rows[:limit]
        query = {"n": str(limit), "last": rows[-1].digest} | ({"artifactType": wanted} if wanted else {})
        headers["Link"] = f'</v2/{name}/referrers/{digest}?{urlencode(query)}>; rel="next"'
    body = referrers.index_of(
        Descriptor(row.media_type, row.digest, row.size, artifact_type=row.artifact_type, annotations=row.annotations)
        for row in rows
        # Content that needs a verdict of its own is not announced to readers before it has one.
        if insider or row.evidence_for is not None
    )
    await exchange.answer(200, headers, body)
