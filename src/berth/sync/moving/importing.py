"""How do versions come in from a file? What is missing is planned first, bytes next, names last.

What arrives is recorded as if the caller had pushed it: it waits for the scans here, statements by trusted keys count,
reports are only shown. Nothing has a name before the whole file has been read and every digest compared; blobs of a
file that breaks off wait a day for the next try.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.catalog import queries as catalog
from berth.errors import BerthError, BlobUnknownToManifest, Conflict, DigestInvalid, InvalidInput, TooLarge, Unsupported
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci.archive import Header, refused
from berth.oci.archive_index import Contents, NamedVersion, SignatureTag
from berth.sync import queries as depot_queries
from berth.sync.depot import DepotRegistry
from berth.sync.moving import queries
from berth.sync.moving.incoming import Incoming

Action = Literal["import", "evidence", "present", "conflict", "failed"]
# With these the catalogue says that it does not take something; the rest of the file is not in doubt.
REFUSALS = (Conflict, InvalidInput, TooLarge, Unsupported)


@dataclass
class Step:
    """One version of a file: what is to be done, and in the end what was done.

    Attributes:
        repository: its name here.
        evidence: how many signatures and reports about it are in the file.
        notes: evidence that was not taken, in words.
    """

    named: NamedVersion
    repository: str
    action: Action
    reason: str
    manifests: list[str] = field(default_factory=list)
    referring: list[str] = field(default_factory=list)
    signatures: list[SignatureTag] = field(default_factory=list)
    held: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)

    @property
    def evidence(self) -> int:
        return len(self.referring) + len(self.signatures)


@dataclass
class Plan:
    """What a file means here. `lacking`: digest of a blob → repositories that need it and do not hold it."""

    contents: Contents
    steps: list[Step]
    lacking: dict[str, list[str]]

    @property
    def missing(self) -> dict[str, int]:
        """Blobs that have to come with the file, with their sizes."""
        return {digest: self.contents.blobs[digest] for digest in self.lacking}


async def plan(conn: AsyncConnection, contents: Contents, rename: Callable[[str], str]) -> Plan:
    """What importing these versions would do.

    Args:
        rename: from the name of a model in the file to its name here.
    """
    steps: list[Step] = []
    lacking: dict[str, list[str]] = {}
    for named in contents.versions:
        step, wanted = await _step(conn, contents, named, rename(named.repository))
        steps.append(step)
        for digest in wanted:
            places = lacking.setdefault(digest, [])
            if step.repository not in places:
                places.append(step.repository)
    return Plan(contents, steps, lacking)


async def _step(
    conn: AsyncConnection, contents: Contents, named: NamedVersion, repository: str
) -> tuple[Step, list[str]]:
    step = Step(named, repository, "import", "It is not here yet.")
    step.manifests = contents.tree(named.digest)
    step.referring, step.signatures = contents.about(step.manifests, named.repository)
    about = [*step.referring, *(tag.digest for tag in step.signatures)]
    row = await catalog.repository(conn, repository)
    linked: frozenset[str] = frozenset()
    blobs = contents.blobs_of([*step.manifests, *about])
    if row is not None:
        taken = await catalog.version_by_number(conn, row.id, named.version)
        if taken is not None and taken.digest != named.digest:
            step.action, step.reason = "conflict", f"The number is taken by {taken.digest}; a version never changes."
            return step, []
        step.held = await depot_queries.manifests_held(conn, repository, [*step.manifests, *about])
        linked = await queries.blobs_linked(conn, row.id, blobs)
        if taken is not None and taken.state == "deleted":
            step.reason = "It was deleted here, and comes back."
        elif taken is not None and set(step.manifests) <= step.held:
            new = [digest for digest in about if digest not in step.held]
            step.action = "evidence" if new else "present"
            step.reason = f"{len(new)} signatures or reports are new." if new else "It is here, with its evidence."
    if step.action == "present":
        return step, []
    # What the repository holds in full needs no blob again, evidence included.
    needed = contents.blobs_of(digest for digest in [*step.manifests, *about] if digest not in step.held)
    return step, [digest for digest in needed if digest not in linked]


async def receive(depot: DepotRegistry, wanted: Plan, incoming: Incoming, first: Header | None) -> int:
    """Take the blobs of the file up to its end; returns the bytes that were kept.

    Raises:
        ArchiveInvalid: the file is damaged, or was cut off. BlobUnknownToManifest: something is in neither place.
    """
    kept = 0
    seen: set[str] = set()
    header = first
    while header is not None:
        size = None if header.digest is None else wanted.contents.blobs.get(header.digest)
        if header.digest is None or size is None:
            raise refused(f"{header.name} comes where only blobs of its versions may come")
        if size != header.size or header.digest in seen:
            raise refused(f"{header.digest} comes twice, or with another size than its manifest says")
        seen.add(header.digest)
        async with aclosing(incoming.blob(header)) as pieces:
            kept += await _take(depot, header.digest, size, pieces, wanted.lacking.get(header.digest, []))
        header = await incoming.next_header()
    absent = sorted(wanted.lacking.keys() - seen)
    if absent:
        raise left_out(wanted, absent)
    return kept


def left_out(wanted: Plan, absent: list[str]) -> BerthError:
    """The error for blobs that are neither in the file nor here."""
    repository = wanted.lacking[absent[0]][0]
    return BlobUnknownToManifest(
        f"The file leaves out {len(absent)} blobs that {repository} does not hold here, such as {absent[0]}.",
        hint="Import what it builds on first, or export it again without --since.",
        detail={"missing": absent[:100]},
    )


async def _take(
    depot: DepotRegistry, digest: str, size: int, pieces: AsyncIterator[bytes], repositories: list[str]
) -> int:
    if not repositories:
        await _compare(digest, pieces)
        return 0
    try:
        await depot.push_blob(repositories[0], digest, size=size, chunks=pieces)
    except DigestInvalid as error:
        raise refused(f"{digest} has other bytes") from error
    for other in repositories[1:]:
        await depot.mount_blob(other, digest, source=repositories[0])
    return size


async def _compare(digest: str, pieces: AsyncIterator[bytes]) -> None:
    """Bytes that are here already are not kept, but a damaged file is not to pass for a whole one."""
    hasher = digests.new_hasher(digests.parse(digest).algorithm)
    loop = asyncio.get_running_loop()
    async for piece in pieces:
        await loop.run_in_executor(_hashing(), hasher.update, piece)
    if f"{digests.parse(digest).algorithm}:{hasher.hexdigest()}" != digest:
        raise refused(f"{digest} has other bytes")


@lru_cache(maxsize=1)
def _hashing() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="import")


async def settle(depot: DepotRegistry, wanted: Plan) -> None:
    """Record manifests, then evidence, then names, once every blob is here. Writes the outcome into the steps."""
    for step in wanted.steps:
        if step.action not in ("import", "evidence"):
            continue
        try:
            for digest in step.manifests:
                if digest not in step.held:
                    await _put(depot, wanted.contents, step.repository, digest, digest)
            await _put_evidence(depot, wanted.contents, step)
            if step.action == "import":
                await _put(depot, wanted.contents, step.repository, step.named.digest, step.named.tag)
        except Conflict as error:
            step.action, step.reason = "conflict", str(error)
        except REFUSALS as error:
            step.action, step.reason = "failed", str(error)


async def _put(depot: DepotRegistry, contents: Contents, repository: str, digest: str, reference: str) -> None:
    manifest = contents.manifests[digest]
    await depot.push_manifest(repository, reference, media_type=manifest.media_type, body=manifest.body)


async def _put_evidence(depot: DepotRegistry, contents: Contents, step: Step) -> None:
    for digest in step.referring:
        if digest in step.held:
            continue
        try:
            await _put(depot, contents, step.repository, digest, digest)
        except REFUSALS as error:
            step.notes.append(f"{digest} was not taken: {error.message}")
    for tag in step.signatures:
        try:
            await _name(depot, contents, step, tag)
        except REFUSALS as error:
            step.notes.append(f"{tag.tag} was not taken: {error.message}")


async def _name(depot: DepotRegistry, contents: Contents, step: Step, tag: SignatureTag) -> None:
    """Signature tags grow: the one here gives way only to one that holds all of its signatures."""
    held = await depot.stat(step.repository, tag.tag)
    if held is not None and held.digest == tag.digest:
        return
    if held is not None:
        theirs = manifests.parse(await depot.manifest(step.repository, held.digest))
        ours = {layer.digest for layer in contents.manifests[tag.digest].layers}
        if not ours.issuperset(layer.digest for layer in theirs.layers):
            step.notes.append(f"{tag.tag} holds signatures here that the file does not have; they were kept.")
            return
    await _put(depot, contents, step.repository, tag.digest, tag.tag)


def shown(step: Step) -> dict[str, Any]:
    """A step as JSON."""
    return {
        "name": step.named.name,
        "repository": step.repository,
        "version": step.named.version,
        "digest": step.named.digest,
        "action": step.action,
        "reason": step.reason,
        "aliases": list(step.named.aliases),
        "evidence": step.evidence,
        "notes": step.notes,
    }
