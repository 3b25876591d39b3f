"""How does one version get from one registry to another? By digest, with its signatures, its name last.

What is at the target already is not sent again, so a copy that was killed goes on where it was: the target itself says
what is whole. Nobody sees a version under its name before everything it consists of is there (design §1, §5).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from berth.adapters.registries.contract import Limited, Registry
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
from berth.sync.carrying import Carrier, Copied
from berth.sync.evidence import evidence_of
from berth.sync.flow import Cancelled, Flow, Journal, NoJournal, go_on
from berth.sync.trying import again
from berth.wire.parallel import each

T = TypeVar("T")

MAX_MANIFESTS: Final = 2_000
MAX_MANIFEST_BYTES: Final = 64 * 1024 * 1024
# A signature on a signature is evidence too; beyond that nobody looks.
EVIDENCE_DEPTH: Final = 3
# With these a registry says that it does not take this piece of evidence; the version itself is not in doubt.
REFUSALS: Final = (Conflict, InvalidInput, TooLarge, Unsupported)
# Of several manifests: what is said about each, digests with their tags.
_About = Sequence[Sequence[tuple[str, str | None]]]


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
        HeldBack: the journal let it have no name; its content may be there.
        NameInvalid, TooLarge: the target takes no such name or size; nothing was sent.
        ManifestUnknown, BlobUnknown: the source lacks something. IntegrityError: bytes do not match their digest.
        RemoteError, Unavailable, TooManyRequests: either side failed, also when tried again.
    """
    carrier = Carrier(
        source,
        target,
        source_repository,
        target_repository,
        flow=flow or Flow(),
        journal=journal or NoJournal(),
        progress=progress,
    )
    return await _Copy(carrier, known_tags=known_tags).run(digest, tag)


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
    carrier = Carrier(source, target, repository, repository, flow=flow, journal=journal)
    work = _Copy(carrier, known_tags=known_tags, largest=largest)
    await work.bring_evidence(subjects, root=subjects[-1])
    return work.copied


class _Copy:
    """One version, or the evidence about one, on its way.

    Args:
        largest: bytes of one manifest with all below it; None = whatever there is.
    """

    def __init__(self, carrier: Carrier, *, known_tags: Collection[str] | None, largest: int | None = None) -> None:
        self._carrier = carrier
        self.source = carrier.source
        self.target = carrier.target
        self.source_repository = carrier.source_repository
        self.target_repository = carrier.target_repository
        self.flow = carrier.flow
        self.journal = carrier.journal
        self.known_tags = known_tags
        self.largest = largest
        # What is still to be given its name: the version, and the evidence that is under way.
        self._unnamed: dict[str, Manifest] = {}

    @property
    def copied(self) -> Copied:
        return self._carrier.copied

    async def run(self, digest: str, tag: str | None) -> Copied:
        self.copied.digest = digest
        if tag is not None and await self._name_is_taken(tag, digest):
            tag = None
        missing, held = await self._bring_content(digest)
        about = await self._about(held, digest)
        root = next((node for node in missing if node.digest == digest), None)
        if tag is None or root is None or any(about):
            await self._put_all(missing)
            await self._bring_evidence(held, about, root=digest)
            root = None
        else:
            # There is nothing to go between it and its name, so that one request can do both.
            await self._put_all([node for node in missing if node is not root])
        if tag is not None:
            await go_on(self.journal)
            await self.journal.naming()
            await self._put(root, tag) if root is not None else await self._name(tag, digest)
            await self._verify(tag, digest)
            self.copied.tagged = True
        return self.copied

    async def _name(self, tag: str, digest: str) -> None:
        body, media_type = await self._root(digest)
        await self._again(
            lambda: self.target.push_manifest(self.target_repository, tag, media_type=media_type, body=body)
        )

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
        if (known := self._unnamed.get(digest)) is not None:
            return known.body, known.media_type
        body = await self._manifest(digest)
        return body, manifests.parse(body).media_type

    # -- content

    async def _bring(self, digest: str) -> None:
        """`digest` and everything below it."""
        missing, _ = await self._bring_content(digest)
        await self._put_all(missing)

    async def _bring_content(self, digest: str) -> tuple[list[_Node], list[str]]:
        """All blobs below `digest`; the manifests that are still missing then, and all manifests in that tree."""
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
        await self._carrier.bring_all(list(wanted.values()))
        return missing, held

    async def _put_all(self, missing: Sequence[_Node]) -> None:
        for level in _leaves_first(missing):
            await go_on(self.journal)
            await each(level, lambda node: self._put(node, node.digest))

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
            if digest == root:
                self._unnamed[digest] = manifest
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

    async def _put(self, node: _Node, reference: str) -> None:
        async def push() -> str:
            return await self.target.push_manifest(
                self.target_repository, reference, media_type=node.manifest.media_type, body=node.manifest.body
            )

        try:
            await self._again(push)
        except BlobUnknownToManifest:
            # It was there a moment ago: the target's clean-up was faster.
            await self._carrier.bring_all(
                [b for b in node.manifest.blobs() if b.media_type not in types.FOREIGN_LAYER_TYPES]
            )
            await self._again(push)
        self.copied.manifests_sent += 1

    # -- evidence

    async def bring_evidence(self, subjects: Sequence[str], *, root: str) -> None:
        """What refers to these manifests of the version `root`, and what refers to that."""
        await self._bring_evidence(subjects, await self._about(subjects, root), root=root)

    async def _bring_evidence(self, subjects: Sequence[str], about: _About, *, root: str) -> None:
        seen = set(subjects)
        for depth in range(EVIDENCE_DEPTH):
            found: list[str] = []
            for there in about:
                for digest, tag in there:
                    # One after the other: a piece may hang on another, or share its tag.
                    if await self._bring_one(digest, tag) and digest not in seen:
                        seen.add(digest)
                        found.append(digest)
            if not found or depth == EVIDENCE_DEPTH - 1:
                return
            about = await self._about(found, root)

    async def _about(self, subjects: Sequence[str], root: str) -> _About:
        """What the source has about each of these manifests: digests, with their tags."""

        async def look(subject: str) -> Sequence[tuple[str, str | None]]:
            return await evidence_of(
                self.source, self.source_repository, subject, root=root, flow=self.flow, known_tags=self.known_tags
            )

        return await each(subjects, look)

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
        finally:
            self._unnamed.pop(digest, None)
        return True

    async def _name_evidence(self, tag: str, digest: str) -> None:
        """Signature tags grow: theirs is replaced only by one that holds all of its signatures."""
        held = await self._again(lambda: self.target.stat(self.target_repository, tag))
        if held is not None and held.digest == digest:
            return
        if held is not None:
            body, _ = await self._root(digest)
            ours = {layer.digest for layer in manifests.parse(body).layers}
            theirs = manifests.parse(
                await self._again(lambda: self.target.manifest(self.target_repository, held.digest))
            )
            if not ours.issuperset(layer.digest for layer in theirs.layers):
                self.copied.notes.append(f"{tag} holds signatures at the target that the source does not have.")
                return
        await self._name(tag, digest)

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
