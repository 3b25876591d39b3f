"""How is a version taken back from where it was published, once it is denied? As the policy's `on_deny` says.

Bytes of which a copy is the last are brought back into the depot first. `untag` (the default) removes the name,
`delete` the content, `mark` and `keep` leave it there. Where it can still be had, its placement says `exposed`. Where a
registry deletes content with its last name (ECR), `untag` first gives it a name that is no version's.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog

from berth.adapters.registries.contract import Registry, Repacking, Stat
from berth.db.engine import Database
from berth.errors import BerthError, IntegrityError, InvalidInput
from berth.gates.policies import from_json
from berth.oci.version import to_tag
from berth.sync.cache.fetcher import Fetcher
from berth.sync.images import holds_version
from berth.sync.places import RegistryDirectory
from berth.sync.publishing import queries
from berth.sync.publishing.publish import is_admitted
from berth.sync.publishing.queries import Placement
from berth.sync.publishing.recall import recall
from berth.sync.rules import DEPOT
from berth.sync.trying import PASSING

LEFT: Final = {
    "mark": "It is denied here and marked so; the policy (on_deny: mark) leaves the copy where it is.",
    "keep": "It is denied here; the policy (on_deny: keep) leaves the copy where it is.",
}
# Names content that is denied here, at registries that keep nothing without a name.
HELD: Final = "withdrawn-"
MAX_TAG: Final = 128
log = structlog.get_logger(__name__)


async def withdraw(
    db: Database,
    places: RegistryDirectory,
    cache: Fetcher,
    *,
    repository_id: int,
    root: str,
    now: Callable[[], datetime],
) -> None:
    """Take a denied digest back from everywhere; one that is admitted (again) stays.

    Raises:
        BerthError: the last failure that may pass, after every place was tried; the caller comes back later.
    """
    async with db.transaction() as conn:
        if await is_admitted(conn, repository_id, root, now()):
            return
        versions = await queries.versions_of(conn, repository_id, root)
        held = [
            p for p in await queries.placements_of(conn, repository_id, root) if p.state != "withdrawn" and not p.found
        ]
    policy = _on_deny(versions[0].policy) if versions else "untag"
    passing: BerthError | None = None
    if held and policy not in LEFT:
        await recall(db, cache, [p.id for p in held], repository_id=repository_id, root=root, now=now())
    for placement in held:
        state, error = "exposed", LEFT.get(policy)
        if error is None:
            try:
                note = await _take_back(places, placement, versions[0].repository, delete=policy == "delete")
                state, error = "withdrawn", note
            except BerthError as failure:
                error = f"It could not be removed: {failure}"
                passing = failure if isinstance(failure, PASSING) else passing
                log.warning("withdrawal_failed", registry=placement.registry, root=root, code=failure.code)
        async with db.transaction() as conn:
            await queries.settle(conn, placement.id, state=state, now=now(), error=error)
        log.info("withdrawn" if state == "withdrawn" else "exposed", registry=placement.registry, root=root)
    if passing is not None:
        raise passing


async def _take_back(places: RegistryDirectory, placement: Placement, origin: str, *, delete: bool) -> str | None:
    """Remove one copy of what the depot has in `origin`; what is to be said about it, if anything."""
    registry = await places.open(placement.registry)
    try:
        if isinstance(registry, Repacking):
            return await _take_image_back(await places.open(DEPOT), registry, placement, origin)
        if delete:
            await registry.delete_manifest(placement.repository, placement.digest)
            await _gone(registry, placement, placement.digest)
            return None
        tag = to_tag(placement.version)
        found = await registry.stat(placement.repository, tag)
        if found is not None and found.digest != placement.digest:
            return f"Its name means {found.digest} there now, which is not ours."
        if found is None:
            return None
        note = await untag(registry, placement.repository, tag, found)
        await _gone(registry, placement, tag)
        return note
    finally:
        await registry.close()


async def _take_image_back(depot: Registry, daemon: Registry, placement: Placement, origin: str) -> str | None:
    """Take its name from a daemon's image, which goes with its last name."""
    assert isinstance(daemon, Repacking)  # noqa: S101 - for the types
    name = (placement.repository, to_tag(placement.version))
    found = await daemon.stat(*name)
    if found is None:
        return None
    if not await holds_version(daemon, name, depot, origin, placement.digest):
        return f"Its name means image {found.digest} there now, which is not ours."
    await daemon.delete_tag(*name)
    await _gone(daemon, placement, name[1])
    return None


async def untag(registry: Registry, repository: str, tag: str, found: Stat) -> str | None:
    """Remove a name and nothing else; what is to be said about it, if anything.

    Raises:
        IntegrityError: the content went with the name, although another name was to hold it.
    """
    if not registry.capabilities.last_tag_takes_content:
        await registry.delete_tag(repository, tag)
        return None
    held = f"{HELD}{tag}"[:MAX_TAG]
    body = await registry.manifest(repository, found.digest)
    await registry.push_manifest(repository, held, media_type=found.media_type, body=body)
    await registry.delete_tag(repository, tag)
    if await registry.stat(repository, found.digest) is None:
        raise IntegrityError(f"{repository}@{found.digest} went with its name {tag}, although {held} held it.")
    return f"Its content is kept there as {held}, since it would have gone with its last name."


async def _gone(registry: Registry, placement: Placement, reference: str) -> None:
    if await registry.stat(placement.repository, reference) is not None:
        raise IntegrityError(f"{placement.registry} still shows {placement.repository}:{reference}.")


def _on_deny(document: object) -> str:
    try:
        return from_json(document).on_deny
    except InvalidInput:
        return "untag"
