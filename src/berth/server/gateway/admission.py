"""May these bytes leave now? The gate's verdict for a manifest or blob as one reader asks for it (design §6).

The hot path is `facts.admitted`, read by the one query in queries.py. Everything here is the slow path: a verdict
that ran out is decided again, evidence rides on its subject, and quarantine opens for those who may look inside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.access import audit
from berth.access.decide import Actor, decide
from berth.errors import Denied, ManifestInvalid
from berth.gates import verdicts
from berth.gates.facts import FIRST_ADMISSION
from berth.oci import manifest as manifests
from berth.server.gateway import queries
from berth.server.gateway.exchange import Exchange
from berth.server.gateway.queries import BlobFacts, ManifestFacts

MAX_ROOTS = 100
CONFIG_LIMIT = 4 << 20
MAX_HOLDERS = 200


@dataclass(frozen=True)
class Leave:
    """Permission to read. `quarantined` tells that the reader sees it although others may not."""

    quarantined: bool = False


async def permit_manifest(exchange: Exchange, actor: Actor, repository: str, facts: ManifestFacts) -> Leave:
    """Raise Denied unless the actor may read this manifest now."""
    if facts.admitted or (facts.open_project and not facts.versioned):
        return Leave()
    async with exchange.services.db.transaction() as conn:
        about = facts.evidence_for or facts.digest
        admitted, reasons = await _ask(exchange, conn, facts.repository_id, about)
    if admitted:
        return Leave()
    if decide(actor, "quarantine.manifest.read", _project(repository)).allowed:
        return Leave(quarantined=True)
    raise await _denied(exchange, actor, repository, facts.digest, reasons)


async def permit_blob(
    exchange: Exchange, actor: Actor, repository: str, facts: BlobFacts, *, documents: bool = True
) -> Leave:
    """Raise Denied unless the actor may read this blob now; reading a quarantined one is audited.

    `documents` lets developers read quarantined configs and evidence; a mount is not allowed on that ground.
    """
    if facts.admitted or (facts.open_project and not facts.versioned):
        return Leave()
    project = _project(repository)
    insider = documents and decide(actor, "quarantine.manifest.read", project).allowed
    if facts.location is None and insider and facts.size <= CONFIG_LIMIT:
        # Whether it is a document is seen from its bytes, and they must not come while a transaction is open.
        location = await exchange.services.cache.ensure(facts.digest, repository_id=facts.repository_id)
        facts = replace(facts, location=location)
    async with exchange.services.db.transaction() as conn:
        admitted, reasons = await _ask(exchange, conn, facts.repository_id, facts.digest)
        subjects = await queries.evidence_subjects(conn, facts.repository_id, facts.digest)
        for subject in subjects:
            if admitted:
                break
            admitted, found = await _ask(exchange, conn, facts.repository_id, subject)
            reasons = reasons or found
        if admitted:
            return Leave()
        if decide(actor, "quarantine.read", project).allowed:
            await audit.record(
                conn,
                actor=actor,
                action="quarantine.read",
                project=project,
                object=f"{repository}@{facts.digest}",
                outcome="done",
                detail={},
            )
            return Leave(quarantined=True)
        if insider and (subjects or await _is_config(exchange, conn, facts)):
            return Leave(quarantined=True)
    raise await _denied(exchange, actor, repository, facts.digest, reasons)


async def admitted_root(exchange: Exchange, conn: AsyncConnection, repository_id: int, root: str) -> bool:
    """True when the version with this root digest may be pulled by readers now."""
    verdict = await verdicts.verdict_of(conn, repository_id, root, exchange.services.clock())
    return verdict.admitted


async def _ask(
    exchange: Exchange, conn: AsyncConnection, repository_id: int, digest: str
) -> tuple[bool, list[dict[str, Any]]]:
    """(admitted through any version that holds it, reasons of the newest such version otherwise)."""
    reasons: list[dict[str, Any]] = []
    for root in await queries.version_roots(conn, repository_id, digest, MAX_ROOTS):
        verdict = await verdicts.verdict_of(conn, repository_id, root, exchange.services.clock())
        if verdict.admitted:
            return True, []
        reasons = reasons or [dict(r) for r in verdict.reasons if r["code"] != FIRST_ADMISSION]
    return False, reasons


async def _is_config(exchange: Exchange, conn: AsyncConnection, facts: BlobFacts) -> bool:
    """True for a small JSON document that manifests here name as config and none names as layer."""
    if facts.size > CONFIG_LIMIT or facts.location is None:
        return False
    bodies = await queries.direct_holders(conn, facts.repository_id, facts.digest, limit=MAX_HOLDERS + 1)
    if not bodies or len(bodies) > MAX_HOLDERS:
        return False
    for body in bodies:
        try:
            parsed = manifests.parse(body)
        except ManifestInvalid:
            return False
        if any(layer.digest == facts.digest for layer in parsed.layers):
            return False
    try:
        document = json.loads(await exchange.services.store.read_all(facts.location, limit=CONFIG_LIMIT))
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict)


async def _denied(
    exchange: Exchange, actor: Actor, repository: str, digest: str, reasons: list[dict[str, Any]]
) -> Denied:
    if not reasons:
        reasons = [
            {
                "code": "content.untracked",
                "message": "It belongs to no version of this repository; push it under a version number.",
            }
        ]
    async with exchange.services.db.transaction() as conn:
        await audit.record(
            conn,
            actor=actor,
            action="version.pull",
            project=_project(repository),
            object=f"{repository}@{digest}",
            outcome="denied",
            detail={"reasons": [reason["code"] for reason in reasons]},
        )
    return Denied(
        f"{repository}@{digest} is in quarantine.",
        reasons=reasons,
        digest=digest,
        hint=f"xumi explain {repository}@{digest} shows the same reasons.",
    )


def _project(repository: str) -> str:
    return repository.partition("/")[0]
