"""How does an admitted version reach its home and replicas? Copied by digest, its tag last, place by place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from berth.adapters.registries.contract import Registry
from berth.db import registries as known
from berth.db.engine import Database
from berth.db.sealing import Sealer
from berth.errors import BerthError, ManifestUnknown
from berth.gates.verdicts import verdict_of
from berth.oci.version import to_tag
from berth.sync.depot import DepotRegistry
from berth.sync.flow import Cancelled, Flow, Limits
from berth.sync.images import bring
from berth.sync.journal import queries as rules
from berth.sync.places import RegistryDirectory
from berth.sync.publishing import queries
from berth.sync.publishing.journal import watched
from berth.sync.publishing.queries import Published
from berth.sync.publishing.record import arrived, next_try
from berth.sync.resuming.kept import KeptUploads
from berth.sync.resuming.queries import Owner
from berth.sync.rules import DEPOT, limits_of, read_terms
from berth.sync.trying import PASSING
from berth.wire.plan import plan

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Place:
    """Where one version is to go; `wait` says why not now."""

    version: Published
    registry: str
    repository: str
    limits: Limits
    wait: str | None = None


async def publish(
    db: Database,
    places: RegistryDirectory,
    *,
    repository_id: int,
    root: str,
    now: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    sealer: Callable[[], Sealer] | None = None,
) -> None:
    """Bring every version of a digest to where its project wants it, if the gate lets it out.

    Args:
        sealer: with it an upload that breaks in the middle of a large blob goes on there with the next try.

    Raises:
        BerthError: the last failure that may pass, after every place was tried; the caller comes back later.
    """
    depot = await places.open(DEPOT)
    targets = await wanted(db, depot, repository_id, root, now)
    opened: dict[str, Registry] = {}
    passing: BerthError | None = None
    try:
        for place in targets:
            async with db.transaction() as conn:
                placement, held, failures = await queries.intend(
                    conn,
                    version=place.version.version_id,
                    registry=place.registry,
                    repository=place.repository,
                    now=now(),
                    error=place.wait,
                )
                if place.wait is not None or held:
                    continue
                await queries.begin(conn, placement, now=now())
            try:
                if place.registry not in opened:
                    opened[place.registry] = await places.open(place.registry)
                uploads = KeptUploads(db, sealer, Owner(placement=placement), now=now, sleep=sleep)
                async with watched(db, placement, uploads=uploads, sleep=sleep) as journal:
                    await bring(
                        depot,
                        opened[place.registry],
                        place.version.repository,
                        place.repository,
                        root,
                        to_tag(place.version.version),
                        flow=Flow(place.limits, sleep=sleep),
                        journal=journal,
                        progress=journal.moved,
                    )
            except Cancelled:
                log.info("publish_held", registry=place.registry, repository=place.repository, root=root)
                continue
            except BerthError as error:
                log.warning(
                    "publish_failed", registry=place.registry, repository=place.repository, root=root, code=error.code
                )
                again = next_try(failures, passing=isinstance(error, PASSING), now=now())
                async with db.transaction() as conn:
                    await queries.settle(conn, placement, state="failed", now=now(), error=str(error), next_try=again)
                if isinstance(error, PASSING):
                    passing = error
                continue
            async with db.transaction() as conn:
                await arrived(conn, placement, repository_id=repository_id, root=root, now=now())
            await uploads.give_up(opened[place.registry])
            log.info("published", registry=place.registry, repository=place.repository, root=root)
    finally:
        for registry in opened.values():
            await registry.close()
    if passing is not None:
        raise passing


async def wanted(
    db: Database, depot: Registry, repository_id: int, root: str, now: Callable[[], datetime]
) -> list[Place]:
    """Where a digest is to be: its project's home and the replicas that want it; nowhere when it is denied."""
    try:
        async with db.transaction() as conn:
            if not (await verdict_of(conn, repository_id, root, now())).admitted:
                return []
            versions = [v for v in await queries.versions_of(conn, repository_id, root) if v.state != "deleted"]
            replicas = await rules.admission_rules(conn, versions[0].project) if versions else []
    except ManifestUnknown:
        return []
    found = [Place(v, v.home, v.repository, limits_of(v.publishing)) for v in versions if v.home != DEPOT]
    if not replicas or not isinstance(depot, DepotRegistry):
        return await _allowed(db, found)
    numbers = {to_tag(version.version): version for version in versions}
    listed = await depot.listed(versions[0].project, repository=versions[0].repository)
    mine = [item for item in listed if item.digest == root]
    for rule in replicas:
        for item in plan(read_terms(rule.terms, project=rule.project), mine, [], now()):
            if item.tag in numbers and (item.action == "copy" or item.code == "outside_window"):
                wait = item.reason if item.action == "skip" else None
                place = Place(numbers[item.tag], rule.target, item.target_repository, limits_of(rule.terms), wait)
                if rule.target != DEPOT:
                    found.append(place)
    return await _allowed(db, found)


async def _allowed(db: Database, places: list[Place]) -> list[Place]:
    """Versions of open projects wait at registries that are not marked for them."""
    async with db.reading() as conn:
        waits = [await held_back(conn, place.version.project, place.registry) for place in places]
    return [replace(place, wait=wait or place.wait) for place, wait in zip(places, waits, strict=True)]


async def held_back(conn: AsyncConnection, project: str, registry: str) -> str | None:
    """Why versions of a project must not leave the depot for a registry; None when they may (design §6)."""
    if registry == DEPOT or not await queries.is_open(conn, project) or await known.takes_open(conn, registry):
        return None
    return f"Its project is open, and {registry} takes no versions of open projects: berth registry set --takes-open."


async def is_admitted(conn: AsyncConnection, repository_id: int, root: str, now: datetime) -> bool:
    """What the gate says now; of what is no longer here it lets nothing out."""
    try:
        return (await verdict_of(conn, repository_id, root, now)).admitted
    except ManifestUnknown:
        return False
