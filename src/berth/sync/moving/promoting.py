"""How does a version get from one project to another of this service? By digest, in one transaction, without a byte.

Signatures and attestations go along; reports are evidence about the digest and are there already (design §6). An
approval is a project's own and stays behind: the target's policy decides anew. What a reviewer said no to stays too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.adapters.stores.contract import BlobStore
from berth.catalog import classify, record
from berth.catalog import queries as catalog
from berth.catalog.queries import RepositoryRow
from berth.errors import BlobUnknown, Conflict, InvalidInput, NameUnknown, TooLarge
from berth.gates import queries as gates
from berth.gates.arrival import arrived
from berth.oci import manifest as manifests
from berth.oci.manifest import Manifest
from berth.oci.version import to_tag
from berth.sync.cache.fetcher import Fetcher
from berth.sync.moving.choosing import Chosen
from berth.sync.moving.contents import Whole, whole
from berth.sync.moving.queries import Held

Action = Literal["promote", "evidence", "present", "conflict", "refused"]


@dataclass(frozen=True)
class Promotion:
    """One version and where it is to go: what would be done, or was done."""

    source: Chosen
    repository: str
    version: str
    action: Action
    reason: str
    evidence: int
    content: Whole

    @property
    def digest(self) -> str:
        return self.source.version.digest


async def plan(conn: AsyncConnection, source: Chosen, repository: str, version: str, *, now: datetime) -> Promotion:
    """What promoting one version to `repository` under the number `version` would do."""
    content = await whole(conn, source.repository.id, source.version.digest, now=now)
    # Our own reports are attached to the copy as to everything with this digest; only what people said travels.
    said = {digest: held for digest, held in content.evidence.items() if held.pushed_by != "berth"}
    content = Whole(content.tree, said)
    action, reason = await _refused(conn, source) or await _action(conn, source, repository, version, content)
    return Promotion(source, repository, version, action, reason, len(said), content)


async def _refused(conn: AsyncConnection, source: Chosen) -> tuple[Action, str] | None:
    """A project whose policy asks for less would let out what a reviewer has taken back."""
    said = await gates.decisions_in(conn, source.repository.id, source.version.digest)
    for row in said.values():
        if row["decision"] in ("rejected", "revoked"):
            what = "it" if row["digest"] == source.version.digest else f"{row['digest']} in it"
            return "refused", f"{row['principal']} {row['decision']} {what} in {source.repository.project}."
    return None


async def _action(
    conn: AsyncConnection, source: Chosen, repository: str, version: str, content: Whole
) -> tuple[Action, str]:
    target = await catalog.repository(conn, repository)
    if target is None:
        return "promote", "The target does not have it."
    taken = await catalog.version_by_number(conn, target.id, version)
    if taken is not None and taken.digest != source.version.digest:
        return "conflict", f"{repository}:{version} is {taken.digest}; a version never changes."
    if taken is None:
        return "promote", "The target does not have it."
    if taken.state == "deleted":
        return "promote", "It was deleted at the target, and comes back."
    held = {row.digest for row in await catalog.manifests_in(conn, target.id, list(content.evidence))}
    missing = len(content.evidence.keys() - held)
    if missing:
        return "evidence", f"The target lacks {missing} of its signatures."
    return "present", "The target has it, with its signatures."


async def places_of(conn: AsyncConnection, promotion: Promotion) -> Mapping[str, tuple[str | None, int]]:
    """Where the small documents lie that recording the manifests is decided with."""
    wanted: set[str] = set()
    for held in [*promotion.content.tree.values(), *promotion.content.evidence.values()]:
        wanted.update(classify.documents_wanted(_parsed(held), next(iter(held.tags), None)))
    return await catalog.linked_places(conn, promotion.source.repository.id, wanted)


async def unproven_of(conn: AsyncConnection, promotion: Promotion) -> set[str]:
    """Blobs that the source has yet to show that it holds: they are fetched before anybody else may name them."""
    return await catalog.unproven(conn, promotion.source.repository.id, promotion.content.blobs())


async def documents_at(
    store: BlobStore, cache: Fetcher, places: Mapping[str, tuple[str | None, int]], *, repository_id: int | None = None
) -> Mapping[str, bytes]:
    """The documents themselves, as blobs of the source; read before the transaction that records."""
    return {
        digest: await store.read_all(
            location or await cache.ensure(digest, repository_id=repository_id), limit=classify.EVIDENCE_LIMIT
        )
        for digest, (location, size) in places.items()
        if size <= classify.EVIDENCE_LIMIT
    }


async def promote(
    conn: AsyncConnection, promotion: Promotion, *, documents: Mapping[str, bytes], by: str, now: datetime
) -> list[str]:
    """Record the version at the target, in the caller's transaction; returns what was not taken, in words.

    Raises:
        NameUnknown: there is no such project. BlobUnknown: the source has lost something meanwhile.
        VersionTaken, Conflict, ManifestInvalid: as for a push to the target; nothing is recorded then.
    """
    target = await catalog.ensure_repository(conn, promotion.repository)
    if target is None:
        raise NameUnknown(f"There is no project '{promotion.repository.partition('/')[0]}'.")
    await _link(conn, promotion, target)
    work = _Recording(conn, target, documents, by, now)
    for digest in _leaves_first(promotion.content.tree):
        await work.put(promotion.content.tree[digest], None)
    notes = []
    for held in promotion.content.evidence.values():
        notes += await work.put_evidence(held)
    if promotion.action == "promote":
        await work.put(promotion.content.tree[promotion.digest], to_tag(promotion.version))
    return notes


async def _link(conn: AsyncConnection, promotion: Promotion, target: RepositoryRow) -> None:
    """The target may name the blobs too; locked at the source, so that clean-up waits."""
    wanted = promotion.content.blobs()
    held = await catalog.lock_linked_blobs(conn, promotion.source.repository.id, wanted)
    unproven = await unproven_of(conn, promotion)
    lost = sorted(wanted.keys() - (held.keys() - unproven))
    if lost:
        raise BlobUnknown(f"{promotion.source.repository.name} does not hold {lost[0]} any more.")
    for digest in sorted(wanted):
        await catalog.link_blob(conn, target.id, digest)


@dataclass(frozen=True)
class _Recording:
    conn: AsyncConnection
    target: RepositoryRow
    documents: Mapping[str, bytes]
    by: str
    now: datetime

    async def put(self, held: Held, tag: str | None) -> None:
        manifest = _parsed(held)
        receipt = await record.put_manifest(
            self.conn,
            repository=self.target,
            tag=tag,
            manifest=manifest,
            digest=held.digest,
            documents=self.documents,
            pushed_by=self.by,
        )
        await arrived(
            self.conn,
            repository=self.target,
            receipt=receipt,
            manifest=manifest,
            documents=self.documents,
            pushed_by=self.by,
            now=self.now,
        )

    async def put_evidence(self, held: Held) -> list[str]:
        """Each piece in a savepoint: one that the target does not take leaves the version alone."""
        tags: list[str | None] = [*held.tags] or [None]
        notes = []
        for tag in tags:
            try:
                if tag is not None and not await self._may_replace(tag, held):
                    notes.append(f"{tag} holds signatures at the target that the source does not have; they were kept.")
                    continue
                async with self.conn.begin_nested():
                    await self.put(held, tag)
            except (Conflict, InvalidInput, TooLarge) as error:
                notes.append(f"{tag or held.digest} was not taken: {error.message}")
        return notes

    async def _may_replace(self, tag: str, held: Held) -> bool:
        """Signature tags grow: theirs gives way only to one that holds all of its signatures."""
        there = await catalog.tag_digest(self.conn, self.target.id, tag)
        if there is None or there == held.digest:
            return True
        row = await catalog.manifest_in(self.conn, self.target.id, there)
        ours = {layer.digest for layer in _parsed(held).layers}
        return row is None or ours.issuperset(layer.digest for layer in manifests.parse(row.body).layers)


def _parsed(held: Held) -> Manifest:
    return manifests.parse(held.body, held.media_type)


def _leaves_first(tree: Mapping[str, Held]) -> list[str]:
    waiting = {digest: {child.digest for child in _parsed(held).children()} for digest, held in tree.items()}
    order: list[str] = []
    while waiting:
        # No cycle is possible: a manifest holds its children's hashes.
        ready = sorted(digest for digest, children in waiting.items() if not children & waiting.keys())
        order += ready
        for digest in ready:
            del waiting[digest]
    return order


def shown(promotion: Promotion) -> dict[str, Any]:
    """A promotion as JSON."""
    return {
        "source": promotion.source.name,
        "repository": promotion.repository,
        "version": promotion.version,
        "digest": promotion.digest,
        "action": promotion.action,
        "reason": promotion.reason,
        "evidence": promotion.evidence,
    }
