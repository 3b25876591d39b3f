"""How does one version get from one registry to another? By digest, with its signatures, its name last.

What is at the target already is not sent again, so a copy that was killed goes on where it was: the target itself says
what is whole. Nobody sees a version under its name before everything it consists of is there (design §1, §5).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, TypeVar

from berth.adapters.registries.contract import LARGE_BYTES, Limited, Registry, Telling
from berth.errors import (
    BlobUnknownToManifest,
    Conflict,
    IntegrityError,
    InvalidInput,
    TooLarge,
    Unsupported,
)
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor
from berth.oci.manifest import Manifest
from berth.sync.evidence import evidence_of
from berth.sync.flow import Cancelled, Flow, Journal, NoJournal, each
from berth.sync.large import LargeBlob
from berth.sync.trying import again

T = TypeVar("T")

MAX_MANIFESTS: Final = 2_000
MAX_MANIFEST_BYTES: Final = 64 * 1024 * 1024
# A signature on a signature is evidence too; beyond that nobody looks.
EVIDENCE_DEPTH: Final = 3
# With these a registry says that it does not take this piece of evidence; the version itself is not in doubt.
REFUSALS: Final = (Conflict, InvalidInput, TooLarge, Unsupported)


@dataclass
class Copied:
    """What a copy did.

    Attributes:
        bytes_sent: of blobs, as they went to the target.
        notes: evidence that the target did not take, in words.
    """

    digest: str
    bytes_sent: int = 0
    blobs_sent: int = 0
    blobs_mounted: int = 0
    blobs_present: int = 0
    manifests_sent: int = 0
    tagged: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Node:
    """A manifest of the source that the target lacks."""

    digest: str
    manifest: Manifest


async def copy_version(
    source: Registry,
    target: Registry,
    source_repository: str,
    target_repository: str,
    digest: str,
    tag: str | None,
    *,
    flow: Flow | None = None,
    journal: Journal | None = None,
    progress: Callable[[int], None] = lambda _: None,
    known_tags: Collection[str] | None = None,
) -> Copied:
    """Bring the manifest `digest`, all below it and all evidence about it to the target, then name it `tag`.

    Args:
        flow: limits, shared by the copies of one run.
        journal: told about every blob that is whole at the target; asked before each one whether to go on.
        progress: called with the number of bytes that just moved.
        known_tags: all tags of the source repository, if the caller has them: saves asking for signature tags.

    Raises:
        Conflict: the target has other bytes under `tag`; nothing was changed there. Cancelled: asked to stop.
        NameInvalid, TooLarge: the target takes no such name or size; nothing was sent.
        ManifestUnknown, BlobUnknown: the source lacks something. IntegrityError: bytes do not match their digest.
        RemoteError, Unavailable, TooManyRequests: either side failed, also when tried again.
    """
    work = _Copy(
        source,
        target,
        source_repository,
        target_repository,
        flow=flow or Flow(),
        journal=journal or NoJournal(),
        progress=progress,
        known_tags=known_tags,
    )
    return await work.run(digest, tag)


async def copy_evidence(
    source: Registry,
    target: Registry,
    repository: str,
    subjects: Sequence[str],
    *,
    flow: Flow,
    journal: Journal,
    known_tags: Collection[str] | None,
    largest: int,
) -> Copied:
    """Bring what refers to these manifests, and what refers to that; nothing of more than `largest` bytes.

    Args:
        subjects: all manifests of a version, its root last.

    Raises: as `copy_version`. What the target or the bound refuses stands in the notes.
    """
    work = _Copy(
        source,
        target,
        repository,
        repository,
        flow=flow,
        journal=journal,
        progress=lambda _: None,
        known_tags=known_tags,
    )
    work.largest = largest
    await work.bring_evidence(subjects, root=subjects[-1])
    return work.copied


class _Copy:
    def __init__(
        self,
        source: Registry,
        target: Registry,
        source_repository: str,
        target_repository: str,
        *,
        flow: Flow,
        journal: Journal,
        progress: Callable[[int], None],
        known_tags: Collection[str] | None,
    ) -> None:
        self.source = source
        self.target = target
        self.source_repository = source_repository
        self.target_repository = target_repository
        self.flow = flow
        self.journal = journal
        self.progress = progress
        self.known_tags = known_tags
        self.copied = Copied("")
        # Of one manifest with all below it; None = whatever there is.
        self.largest: int | None = None
        self._same_place = source is target

    async def run(self, digest: str, tag: str | None) -> Copied:
        self.copied = Copied(digest)
        if tag is not None and await self._name_is_taken(tag, digest):
            tag = None
        held = await self._bring(digest)
        await self.bring_evidence(held, root=digest)
        if tag is not None:
            await self._wanted()
            body, media_type = await self._root(digest)
            await self._again(
                lambda: self.target.push_manifest(self.target_repository, tag, media_type=media_type, body=body)
            )
            await self._verify(tag, digest)
            self.copied.tagged = True
        return self.copied

    async def _name_is_taken(self, tag: str, digest: str) -> bool:
        """True when the target has this version under this name. Raises Conflict for another one."""
        found = await self._again(lambda: self.target.stat(self.target_repository, tag))
        if found is not None and found.digest != digest:
            raise Conflict(
                f"{self.target_repository}:{tag} is {found.digest} at the target, not {digest}; it was left alone.",
                hint="A version never changes. Give one of the two another version number.",
                detail={"target_digest": found.digest, "digest": digest},
            )
        return found is not None

    async def _verify(self, tag: str, digest: str) -> None:
        found = await self._again(lambda: self.target.stat(self.target_repository, tag))
        if found is None or found.digest != digest:
            raise IntegrityError(
                f"The target shows {found.digest if found else 'nothing'} as {self.target_repository}:{tag} after "
                f"{digest} was pushed there."
            )

    async def _root(self, digest: str) -> tuple[bytes, str]:
        body = await self._manifest(digest)
        return body, manifests.parse(body).media_type

    # -- content

    async def _bring(self, digest: str) -> list[str]:
        """Everything below `digest`, leaves first; returns the digests of all manifests in that tree."""
        missing, held = await self._walk(digest)
        wanted: dict[str, Descriptor] = {}
        for node in missing:
            for blob in node.manifest.blobs():
                if blob.media_type not in types.FOREIGN_LAYER_TYPES:
                    wanted.setdefault(blob.digest, blob)
        if self.largest is not None and sum(blob.size for blob in wanted.values()) > self.largest:
            raise TooLarge(f"It is larger than {self.largest} bytes.")
        if isinstance(self.target, Limited):
            bodies = [Descriptor(n.manifest.media_type, n.digest, len(n.manifest.body)) for n in missing]
            self.target.check_content(self.target_repository, None, [*wanted.values(), *bodies])
        if wanted:
            await self.journal.planned(len(wanted), sum(blob.size for blob in wanted.values()))
        await self._bring_blobs(list(wanted.values()))
        for level in _leaves_first(missing):
            await self._wanted()
            await each(level, self._put)
        return held

    async def _walk(self, root: str) -> tuple[list[_Node], list[str]]:
        """What the target lacks, and all manifests of the tree; parents come before their children."""
        missing: list[_Node] = []
        held: list[str] = []
        total = 0

        async def look(digest: str) -> Manifest:
            nonlocal total
            body = await self._manifest(digest)
            total += len(body)
            if total > MAX_MANIFEST_BYTES:
                raise too_large
            manifest = manifests.parse(body)
            if await self._again(lambda: self.target.stat(self.target_repository, digest)) is None:
                missing.append(_Node(digest, manifest))
            return manifest

        too_large = TooLarge(f"{root} consists of more than {MAX_MANIFESTS} manifests, or of very large ones.")
        level = [root]
        while level:
            held += level
            if len(held) > MAX_MANIFESTS:
                raise too_large
            found = await each(level, look)
            children = dict.fromkeys(child.digest for manifest in found for child in manifest.children())
            level = [digest for digest in children if digest not in held]
        return missing, held

    async def _manifest(self, digest: str) -> bytes:
        async def read() -> bytes:
            body = await self.source.manifest(self.source_repository, digest)
            if digests.of_bytes(body, digests.parse(digest).algorithm) != digest:
                raise IntegrityError(f"The source answered other bytes than {digest}.")
            return body

        return await self._again(read)

    async def _put(self, node: _Node) -> None:
        async def push() -> str:
            return await self.target.push_manifest(
                self.target_repository, node.digest, media_type=node.manifest.media_type, body=node.manifest.body
            )

        try:
            await self._again(push)
        except BlobUnknownToManifest:
            # It was there a moment ago: the target's clean-up was faster.
            await self._bring_blobs([b for b in node.manifest.blobs() if b.media_type not in types.FOREIGN_LAYER_TYPES])
            await self._again(push)
        self.copied.manifests_sent += 1

    # -- blobs

    async def _bring_blobs(self, blobs: Sequence[Descriptor]) -> None:
        async def bring(blob: Descriptor) -> None:
            async with self.flow.slots:
                await self._wanted()
                await self._bring_blob(blob)

        # Largest first: the last one to finish is then a small one.
        await each(sorted(blobs, key=lambda blob: -blob.size), bring, at_once=self.flow.limits.blobs)

    async def _bring_blob(self, blob: Descriptor) -> None:
        digest, repository = blob.digest, self.target_repository
        sent = 0
        # Of a large blob the end of a broken upload may be all that is missing: that is another way in.
        tells = isinstance(self.target, Telling) and self.target.tells_on_upload and 0 < blob.size < LARGE_BYTES
        if not tells and await self._again(lambda: self.target.blob_size(repository, digest)) is not None:
            self.copied.blobs_present += 1
        elif await self._mounted(digest):
            self.copied.blobs_mounted += 1
        elif (sent := await self._bring_over(blob)) or not tells:
            self.copied.blobs_sent += 1
            self.copied.bytes_sent += sent
        else:
            self.copied.blobs_present += 1
        self.flow.remember(digest, repository)
        await self.journal.whole(digest, size=blob.size, sent=sent)

    async def _mounted(self, digest: str) -> bool:
        if not self.target.capabilities.mount:
            return False
        origin = self.source_repository if self._same_place else self.flow.holder(digest)
        if origin is None or origin == self.target_repository:
            return False
        return await self._again(lambda: self.target.mount_blob(self.target_repository, digest, source=origin))

    async def _bring_over(self, blob: Descriptor) -> int:
        """Send it; how many bytes went, of a large one also those of broken tries."""
        if blob.size < LARGE_BYTES:
            return await self._again(lambda: self._send(blob))
        large = LargeBlob(
            self.source,
            self.source_repository,
            self.target_repository,
            blob,
            flow=self.flow,
            journal=self.journal,
            progress=self.progress,
        )
        await self._again(lambda: large.send(self.target))
        return large.bytes_sent

    async def _send(self, blob: Descriptor) -> int:
        moved = 0

        async def pieces() -> AsyncGenerator[bytes, None]:
            nonlocal moved
            async for piece in self.source.blob(self.source_repository, blob.digest):
                moved += len(piece)
                await self._wanted()
                if moved > blob.size:
                    raise IntegrityError(f"The source answers more than the {blob.size} bytes of {blob.digest}.")
                await self.flow.pass_bytes(len(piece))
                self.progress(len(piece))
                yield piece

        async with aclosing(pieces()) as stream:
            await self.target.push_blob(self.target_repository, blob.digest, size=blob.size, chunks=stream)
        return moved

    # -- evidence

    async def bring_evidence(self, subjects: Sequence[str], *, root: str) -> None:
        """What refers to these manifests of the version `root`, and what refers to that."""
        seen = set(subjects)
        level = list(subjects)
        for _ in range(EVIDENCE_DEPTH):
            found: list[str] = []
            for there in await each(level, lambda subject: self._evidence_of(subject, root)):
                for digest, tag in there:
                    # One after the other: a piece may hang on another, or share its tag.
                    if await self._bring_one(digest, tag) and digest not in seen:
                        seen.add(digest)
                        found.append(digest)
            if not found:
                return
            level = found

    async def _evidence_of(self, subject: str, root: str) -> list[tuple[str, str | None]]:
        return await evidence_of(
            self.source, self.source_repository, subject, root=root, flow=self.flow, known_tags=self.known_tags
        )

    async def _bring_one(self, digest: str, tag: str | None) -> bool:
        try:
            await self._bring(digest)
            if tag is not None:
                await self._name_evidence(tag, digest)
        except Cancelled:
            raise
        except REFUSALS as error:
            self.copied.notes.append(f"{tag or digest} was not taken: {error.message}")
            return False
        return True

    async def _name_evidence(self, tag: str, digest: str) -> None:
        """Signature tags grow: theirs is replaced only by one that holds all of its signatures."""
        held = await self._again(lambda: self.target.stat(self.target_repository, tag))
        if held is not None and held.digest == digest:
            return
        body, media_type = await self._root(digest)
        if held is not None:
            ours = {layer.digest for layer in manifests.parse(body).layers}
            theirs = manifests.parse(
                await self._again(lambda: self.target.manifest(self.target_repository, held.digest))
            )
            if not ours.issuperset(layer.digest for layer in theirs.layers):
                self.copied.notes.append(f"{tag} holds signatures at the target that the source does not have.")
                return
        await self._again(
            lambda: self.target.push_manifest(self.target_repository, tag, media_type=media_type, body=body)
        )

    # -- going on

    async def _wanted(self) -> None:
        if not await self.journal.wanted():
            raise Cancelled("The copy was stopped.")

    async def _again(self, do: Callable[[], Awaitable[T]]) -> T:
        return await again(do, flow=self.flow)


def _leaves_first(nodes: Sequence[_Node]) -> list[list[_Node]]:
    """Children before the indexes that name them: each level needs only what is in those before it."""
    waiting = {node.digest: node for node in nodes}
    levels: list[list[_Node]] = []
    while waiting:
        # No cycle is possible: a manifest holds its children's hashes.
        ready = [n for n in waiting.values() if not any(c.digest in waiting for c in n.manifest.children())]
        for node in ready:
            del waiting[node.digest]
        levels.append(ready)
    return levels
