"""Where may a laptop's sync bring versions to? Its local repository, a folder of image layouts, or a registry."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from berth.authoring.repository import LocalRepository
from berth.client.fetching import fetch, forget_stale_parts
from berth.errors import Forbidden, NotFound, VersionInvalid
from berth.oci import manifest as manifests
from berth.oci import referrers
from berth.oci.descriptor import Descriptor
from berth.oci.layout import REF_NAME, Layout
from berth.oci.reference import check_repository
from berth.oci.version import from_tag, is_version_tag, to_tag
from berth.wire import manifests as wire_manifests
from berth.wire import referrers as wire_referrers
from berth.wire import tags as wire_tags
from berth.wire import transfer
from berth.wire.client import RegistryClient
from berth.wire.parallel import each
from berth.wire.plan import Listed
from berth.wire.transfer import Progress, RemoteSource, Tree

PARALLEL = 4


class Place(Protocol):
    """A place that versions are brought to."""

    name: str

    async def listed(self, repositories: Collection[str]) -> list[Listed]:
        """The tags of these repositories, or of all where it can say so cheaply."""
        ...

    async def holds(self, repository: str, evidence: Collection[str]) -> frozenset[str]:
        """Those of these signatures and reports that need not be brought: they are here, or none is kept here."""
        ...

    async def bring(
        self, source: RegistryClient, repository: str, tag: str, digest: str, progress: Progress | None
    ) -> int:
        """Copy a version with its evidence, its name last; returns the bytes of blobs that were sent."""
        ...


class _Layouts:
    """What the local repository and a folder have in common: both are image layouts on this disk."""

    def _layout(self, repository: str) -> Layout:
        raise NotImplementedError

    def _has(self, layout: Layout, digest: str) -> bool:
        return layout.has(digest)

    def _name(self, repository: str, tag: str, root: Descriptor) -> None:
        raise NotImplementedError

    async def bring(
        self, source: RegistryClient, repository: str, tag: str, digest: str, progress: Progress | None
    ) -> int:
        layout = self._layout(repository).create()
        forget_stale_parts(layout)
        remote = RemoteSource(source, repository)
        tree = await transfer.tree_of(remote, digest)
        label = f"{repository}:{tag}"
        if progress is not None:
            progress.start(label, sum(b.size for b in tree.blobs.values() if not self._has(layout, b.digest)))
        sent = await self._bring_tree(
            source, repository, layout, tree, (lambda n: progress.advance(label, n)) if progress else (lambda _: None)
        )
        sent += await self._bring_evidence(source, repository, layout, tree)
        root = tree.order[-1][1]
        self._name(repository, tag, Descriptor(root.media_type, digest, root.size))
        if progress is not None:
            progress.finish(label, "fetched")
        return sent

    async def _bring_evidence(self, source: RegistryClient, repository: str, layout: Layout, tree: Tree) -> int:
        remote = RemoteSource(source, repository)
        sent = 0
        for evidence, name in await evidence_of(source, repository, [found for found, _ in tree.order]):
            try:
                about = await transfer.tree_of(remote, evidence)
                sent += await self._bring_tree(source, repository, layout, about, lambda _: None)
            except (Forbidden, NotFound):
                continue  # content with a verdict of its own, or gone meanwhile
            manifest = about.order[-1][1]
            if name is None:
                layout.add(referrers.descriptor_for(manifest, evidence))
            else:
                self._name(repository, name, Descriptor(manifest.media_type, evidence, manifest.size))
        return sent

    async def _bring_tree(
        self, source: RegistryClient, repository: str, layout: Layout, tree: Tree, advance: Callable[[int], None]
    ) -> int:
        missing = sorted((b for b in tree.blobs.values() if not self._has(layout, b.digest)), key=lambda b: -b.size)
        sent = await each(
            missing, lambda blob: fetch(source, repository, blob, layout, advance=advance), at_once=PARALLEL
        )
        for found, manifest in tree.order:
            if not layout.has(found):
                layout.write_stream((manifest.body,), expected=found)
        return sum(sent)


class LocalPlace(_Layouts):
    """`XUMI_HOME`: what `xumi ls`, `run` and `push` work with. It holds versions; evidence about them stays away."""

    name = "local"

    def __init__(self, home: Path) -> None:
        self._local = LocalRepository(home)

    async def listed(self, repositories: Collection[str]) -> list[Listed]:
        return [
            Listed(version.name, _tag(version.version), version.descriptor.digest) for version in self._local.versions()
        ]

    async def holds(self, repository: str, evidence: Collection[str]) -> frozenset[str]:
        return frozenset(evidence)

    def _layout(self, repository: str) -> Layout:
        return self._local.layout

    async def _bring_evidence(self, source: RegistryClient, repository: str, layout: Layout, tree: Tree) -> int:
        return 0

    def _has(self, layout: Layout, digest: str) -> bool:
        # Weights that were built here lie where they were; they need not come back.
        return self._local.has_blob(digest)

    def _name(self, repository: str, tag: str, root: Descriptor) -> None:
        self._local.put_version(f"{repository}:{from_tag(tag)}", root)


class FolderPlace(_Layouts):
    """One image layout per model, `FOLDER/project/model`, as `berth registry add --kind folder` reads it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = f"folder:{folder}"

    async def listed(self, repositories: Collection[str]) -> list[Listed]:
        found = []
        for repository in sorted(repositories):
            layout = self._layout(repository)
            if (layout.path / "index.json").is_file():
                found += [
                    Listed(repository, entry.annotations[REF_NAME], entry.digest)
                    for entry in layout.index()
                    if REF_NAME in entry.annotations
                ]
        return found

    async def holds(self, repository: str, evidence: Collection[str]) -> frozenset[str]:
        entries = self._layout(repository).index()
        return frozenset(evidence) & {entry.digest for entry in entries}

    def _layout(self, repository: str) -> Layout:
        check_repository(repository)  # before it becomes a path
        return Layout(self._folder / repository)

    def _name(self, repository: str, tag: str, root: Descriptor) -> None:
        self._layout(repository).add(root, tag)


class RegistryPlace:
    """Any registry that speaks OCI Distribution."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client
        self.name = client.host

    async def listed(self, repositories: Collection[str]) -> list[Listed]:
        names: list[tuple[str, str]] = []
        for repository in sorted(repositories):
            try:
                names += [(repository, tag) async for tag in wire_tags.ls(self._client, repository)]
            except NotFound:
                continue
        wanted = [(repository, tag) for repository, tag in names if is_version_tag(tag)]
        digests = await each(wanted, lambda place: _digest_of(self._client, *place))
        return [Listed(*place, digest) for place, digest in zip(wanted, digests, strict=True) if digest is not None]

    async def holds(self, repository: str, evidence: Collection[str]) -> frozenset[str]:
        pieces = sorted(evidence)
        there = await each(pieces, lambda piece: wire_manifests.head(self._client, repository, piece))
        return frozenset(piece for piece, seen in zip(pieces, there, strict=True) if seen is not None)

    async def bring(
        self, source: RegistryClient, repository: str, tag: str, digest: str, progress: Progress | None
    ) -> int:
        remote = RemoteSource(source, repository)
        whole = await transfer.copy_tree(remote, self._client, repository, digest, progress=progress)
        sent = whole.sent_bytes
        for evidence, name in await evidence_of(source, repository, list(await _manifests_below(remote, digest))):
            try:
                about = await transfer.copy_tree(remote, self._client, repository, evidence, tag=name)
            except (Forbidden, NotFound):
                continue  # content with a verdict of its own, or gone meanwhile
            sent += about.sent_bytes
        root = await remote.manifest(digest)
        await wire_manifests.put(self._client, repository, tag, root, manifests.parse(root).media_type)
        return sent


async def evidence_of(
    source: RegistryClient, repository: str, subjects: Collection[str]
) -> list[tuple[str, str | None]]:
    """(digest, tag) of what the service lets us see about these manifests: referrers, signature tags."""
    found: dict[tuple[str, str | None], None] = {}
    for subject in subjects:
        for entry in await wire_referrers.ls(source, repository, subject):
            found[(entry.digest, None)] = None
        if subject.startswith("sha256:"):
            for tag in (referrers.signature_tag(subject), referrers.attestation_tag(subject)):
                digest = await _digest_of(source, repository, tag)
                if digest is not None:
                    found[(digest, tag)] = None
    return list(found)


async def _manifests_below(source: RemoteSource, digest: str) -> list[str]:
    return [found for found, _ in (await transfer.tree_of(source, digest)).order]


async def _digest_of(client: RegistryClient, repository: str, tag: str) -> str | None:
    seen = await wire_manifests.head(client, repository, tag)
    if seen is None:
        return None
    # Old registries leave the header out of a HEAD's answer.
    return seen.digest or (await wire_manifests.get(client, repository, tag)).digest


def _tag(version: str) -> str:
    try:
        return to_tag(version)
    except VersionInvalid:
        return version
