"""How do versions come to a container daemon, and images from there? As whole images, since it repacks them.

Everything else is copied by digest (copy.py). A daemon gets the runnable image for its platform, compared by the
image's config; what comes from a daemon is a new manifest of the same config and layers (docs/decisions/0020).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

from berth.adapters.registries.contract import ImageChoice, Registry, Repacking, WholeImage
from berth.authoring.image import BUNDLE
from berth.errors import Conflict, IntegrityError, ManifestInvalid, NotFound, TooLarge, Unavailable, Unsupported
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor
from berth.sync.carrying import Copied
from berth.sync.copy import copy_version
from berth.sync.depot import DepotRegistry
from berth.sync.flow import Cancelled, Flow, Journal, NoJournal
from berth.sync.trying import again
from berth.wire.plan import Listed, Terms, target_name

CONFIG_LIMIT: Final = 4 << 20
_CONFIGS: Final = frozenset({types.OCI_CONFIG, types.DOCKER_CONFIG})


async def bring(
    source: Registry,
    target: Registry,
    source_repository: str,
    target_repository: str,
    digest: str,
    tag: str,
    *,
    flow: Flow | None = None,
    journal: Journal | None = None,
    progress: Callable[[int], None] = lambda _: None,
    known_tags: Collection[str] | None = None,
) -> Copied:
    """`copy_version`, or where one side is a container daemon, the image of a version as a whole.

    Raises:
        What copy_version raises. Unsupported: no image for the daemon's platform, or a daemon that is to feed
        anything but the depot.
    """
    if not isinstance(source, Repacking) and not isinstance(target, Repacking):
        return await copy_version(
            source, target, source_repository, target_repository, digest, tag,
            flow=flow, journal=journal, progress=progress, known_tags=known_tags,
        )  # fmt: skip
    check_sides(source, target)
    work = _Whole(flow or Flow(), journal or NoJournal(), progress)
    if isinstance(source, Repacking) and isinstance(target, DepotRegistry):
        return await work.take(source, target, source_repository, target_repository, digest, tag)
    return await work.give(source, target, source_repository, target_repository, digest, tag)


def check_sides(source: Registry, target: Registry) -> None:
    """Raises Unsupported where images of a daemon would go anywhere but into the depot."""
    if isinstance(source, Repacking) and not isinstance(target, DepotRegistry):
        raise Unsupported(
            "Images of a container daemon come in through the depot only: their digests are new.",
            hint="Make a rule with --target depot; what is admitted goes on from there.",
        )


async def holds_version(
    daemon: Repacking, name: tuple[str, str], source: Registry, repository: str, digest: str
) -> bool:
    """Whether a (repository, tag) of a daemon means the image of this version."""
    try:
        _, config = await _image_of(source, repository, digest, await daemon.choice())
    except (Unsupported, NotFound):
        return False
    return await daemon.holds(*name, config)


async def matched(
    terms: Terms, source: Registry, target: Registry, ours: Sequence[Listed], theirs: Sequence[Listed]
) -> tuple[list[Listed], list[Listed]]:
    """Both listings, with one digest for what is the same image on either side: ids of a daemon are no digests."""
    check_sides(source, target)
    there = {(listed.repository, listed.tag): listed for listed in theirs}
    here: list[Listed] = []
    for listed in ours:
        name = (target_name(terms, listed.repository), listed.tag)
        held = there.get(name)
        # Evidence stays where it is: a daemon has no place for it.
        mine = replace(listed, evidence=frozenset())
        if held is not None and not held.deleted:
            if isinstance(target, Repacking):
                if await holds_version(target, name, source, listed.repository, listed.digest):
                    there[name] = replace(held, digest=listed.digest)
            elif isinstance(source, Repacking):
                own = (listed.repository, listed.tag)
                if await holds_version(source, own, target, held.repository, held.digest):
                    mine = replace(mine, digest=held.digest)
        here.append(mine)
    return here, list(there.values())


class _Whole:
    def __init__(self, flow: Flow, journal: Journal, progress: Callable[[int], None]) -> None:
        self.flow = flow
        self.journal = journal
        self.progress = progress

    async def give(
        self, source: Registry, daemon: Registry, source_repository: str, repository: str, digest: str, tag: str
    ) -> Copied:
        """Load a version's image into a daemon."""
        assert isinstance(daemon, Repacking)  # noqa: S101 - for the types; `bring` asked
        copied = Copied(digest)
        image, config = await _image_of(source, source_repository, digest, await daemon.choice())
        held = await again(lambda: daemon.stat(repository, tag), flow=self.flow)
        if held is not None:
            if await daemon.holds(repository, tag, config):
                copied.blobs_present = len(image.layers)
                return copied
            raise _taken(f"{repository}:{tag}", held.digest, digest)

        async def load() -> int:
            sent = 0

            async def read(layer: Descriptor) -> AsyncGenerator[bytes, None]:
                nonlocal sent
                async for piece in source.blob(source_repository, layer.digest):
                    await self._pass(len(piece))
                    sent += len(piece)
                    yield piece

            await daemon.load(repository, tag, image, read=read)
            return sent

        await self.journal.naming()
        copied.bytes_sent = await again(load, flow=self.flow)
        layers = {layer.digest: layer for layer in image.layers}
        copied.blobs_sent = len(layers)
        for layer in layers.values():
            await self.journal.whole(layer.digest, size=layer.size, sent=layer.size)
        copied.tagged = True
        copied.notes.append(f"The daemon has it as image {digests.of_bytes(config)}, without signatures and reports.")
        return copied

    async def take(
        self, daemon: Repacking, depot: DepotRegistry, source_repository: str, repository: str, digest: str, tag: str
    ) -> Copied:
        """Bring a daemon's image into the depot as a version; `digest` is its id there."""
        held = await depot.stat(repository, tag)
        if held is not None:
            if await holds_version(daemon, (source_repository, tag), depot, repository, held.digest):
                return Copied(held.digest)
            raise _taken(f"{repository}:{tag}", held.digest, digest)
        copied = Copied(digest)

        async def keep(size: int, chunks: AsyncIterator[bytes]) -> str:
            async def watched() -> AsyncGenerator[bytes, None]:
                async for piece in chunks:
                    await self._pass(len(piece))
                    yield piece

            found = await depot.receive_blob(repository, size=size, chunks=watched())
            copied.bytes_sent += size
            copied.blobs_sent += 1
            await self.journal.whole(found, size=size, sent=size)
            return found

        async def save() -> WholeImage:
            return await daemon.save(source_repository, tag, keep=keep)

        image = await again(save, flow=self.flow)
        if not await daemon.holds(source_repository, tag, image.config):
            raise Unavailable(f"{source_repository}:{tag} has changed at the daemon meanwhile.", hint="Run it again.")
        _check_layers(image)
        config = await depot.receive_blob(repository, size=len(image.config), chunks=_once(image.config))
        body = manifests.image(
            config=Descriptor(types.OCI_CONFIG, config, len(image.config)), layers=list(image.layers)
        )
        await self._wanted()
        copied.digest = await depot.push_manifest(repository, tag, media_type=types.OCI_MANIFEST, body=body)
        copied.manifests_sent, copied.tagged = 1, True
        copied.notes.append(f"Repacked: the daemon's image {digest} is the version {copied.digest} here.")
        return copied

    async def _pass(self, count: int) -> None:
        await self._wanted()
        await self.flow.pass_bytes(count)
        self.progress(count)

    async def _wanted(self) -> None:
        if not await self.journal.wanted():
            raise Cancelled("The copy was stopped.")


async def _image_of(source: Registry, repository: str, digest: str, choice: ImageChoice) -> tuple[WholeImage, bytes]:
    """The image of a version that a daemon runs, and its config. Raises Unsupported, ManifestUnknown, BlobUnknown."""
    manifest = manifests.parse(await source.manifest(repository, digest))
    platform = f"{choice.os}/{choice.architecture}"
    if manifest.kind == "index":
        fitting = [child for child in manifest.children() if _fits(child, choice)]
        bundled = [child for child in fitting if child.annotations.get(BUNDLE) == "true"]
        plain = [child for child in fitting if child not in bundled]
        chosen = (*bundled, *plain) if choice.bundle else (*plain, *bundled)
        if not chosen:
            raise Unsupported(
                f"{repository}@{digest} has no image for {platform}, which the daemon runs.",
                hint="Build the version for that platform too, or use a daemon of another one.",
            )
        manifest = manifests.parse(await source.manifest(repository, chosen[0].digest))
    if manifest.config is None or manifest.config.media_type not in _CONFIGS:
        raise Unsupported(f"{repository}@{digest} is no runnable image.", hint="Checkpoints stay in registries.")
    config = await _read(source, repository, manifest.config)
    document = _object(config)
    if (document.get("os"), document.get("architecture")) != (choice.os, choice.architecture):
        raise Unsupported(
            f"{repository}@{digest} is for {document.get('os')}/{document.get('architecture')}, "
            f"the daemon runs {platform}."
        )
    return WholeImage(config, manifest.layers), config


def _fits(child: Descriptor, choice: ImageChoice) -> bool:
    platform = child.platform or {}
    return (platform.get("os"), platform.get("architecture")) == (choice.os, choice.architecture)


async def _read(source: Registry, repository: str, config: Descriptor) -> bytes:
    if config.size > CONFIG_LIMIT:
        raise TooLarge(f"The config {config.digest} has {config.size} bytes.")
    body = b"".join([piece async for piece in source.blob(repository, config.digest)])
    if digests.of_bytes(body, digests.parse(config.digest).algorithm) != config.digest:
        raise IntegrityError(f"The source answers other bytes than {config.digest}.")
    return body


def _object(config: bytes) -> dict[str, object]:
    try:
        document = json.loads(config)
    except ValueError as error:
        raise ManifestInvalid("The image's config is not JSON.") from error
    if not isinstance(document, dict):
        raise ManifestInvalid("The image's config is not a JSON object.")
    return document


def _check_layers(image: WholeImage) -> None:
    """What a daemon gave is what its config says, as far as layers are not compressed."""
    rootfs = _object(image.config).get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(image.layers):
        raise IntegrityError("The daemon's image has other layers than its config says.")
    for layer, diff_id in zip(image.layers, diff_ids, strict=True):
        if layer.media_type == types.OCI_LAYER_TAR and layer.digest != diff_id:
            raise IntegrityError(f"The daemon's layer {diff_id} arrived as {layer.digest}.")


def _taken(name: str, held: str, wanted: str) -> Conflict:
    return Conflict(
        f"{name} is {held} at the target, not {wanted}; it was left alone.",
        hint="A version never changes. Give one of the two another version number.",
        detail={"target_digest": held, "digest": wanted},
    )


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
