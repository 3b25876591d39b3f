"""Whole images between registries and container daemons, here in memory; real ones are in contracts and stories."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from berth.adapters.registries.contract import ImageChoice, Page, Stat, WholeImage
from berth.adapters.registries.daemon import DaemonRegistry
from berth.adapters.registries.folder import FolderRegistry
from berth.errors import Conflict, IntegrityError, Unavailable, Unsupported
from berth.oci.descriptor import Descriptor
from berth.oci.layout import Layout
from berth.sync import runs
from berth.sync.flow import Cancelled, Flow, NoJournal
from berth.sync.images import bring
from tests.support.daemons import INDEX, MANIFEST, packed, runnable, sha256
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import Naps


class Shelf(DaemonRegistry):
    """A daemon in memory: it has what it was given, by the id of its config."""

    def __init__(self, *, architecture: str = "amd64", bundle: bool = False) -> None:
        self.capabilities = DaemonRegistry.KIND.capabilities
        self.wish = ImageChoice("linux", architecture, bundle)
        self.held: dict[tuple[str, str], WholeImage] = {}
        self.layers: dict[str, bytes] = {}
        self.failures: list[Exception] = []
        self.loads = 0

    async def choice(self) -> ImageChoice:
        return self.wish

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        return Page(sorted({name for name, _ in self.held}))

    async def tags(self, repository: str, *, after: str | None = None, limit: int = 100) -> Page[str]:
        return Page(sorted(tag for name, tag in self.held if name == repository))

    async def stat(self, repository: str, reference: str) -> Stat | None:
        image = self.held.get((repository, reference))
        return None if image is None else Stat(sha256(image.config), "config", 1)

    async def holds(self, repository: str, tag: str, config: bytes) -> bool:
        image = self.held.get((repository, tag))
        return image is not None and image.config == config

    async def load(
        self, repository: str, tag: str, image: WholeImage, *, read: Callable[[Descriptor], AsyncIterator[bytes]]
    ) -> None:
        self.loads += 1
        for layer in image.layers:
            self.layers[layer.digest] = b"".join([piece async for piece in read(layer)])
        if self.failures:
            raise self.failures.pop()
        self.held[repository, tag] = image

    async def save(
        self, repository: str, tag: str, *, keep: Callable[[int, AsyncIterator[bytes]], Awaitable[str]]
    ) -> WholeImage:
        image = self.held[repository, tag]
        found = []
        for layer in image.layers:
            data = self.layers[layer.digest]

            async def once(data: bytes = data) -> AsyncIterator[bytes]:
                yield data

            found.append(Descriptor(layer.media_type, await keep(len(data), once()), len(data)))
        return WholeImage(image.config, found)

    async def delete_tag(self, repository: str, tag: str) -> bool:
        return self.held.pop((repository, tag), None) is not None

    async def close(self) -> None:
        return None


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[FolderRegistry]:
    registry = FolderRegistry(tmp_path / "hub")
    yield registry
    await registry.close()


def made(hub: FolderRegistry, tag: str = "1.0.0", **more: str) -> dict[str, str]:
    return runnable(hub.root / "lab/says", tag, says=f"version {tag}", **more)  # type: ignore[arg-type]


async def out(hub: FolderRegistry, shelf: Shelf, digest: str, tag: str = "1.0.0", **more: object) -> object:
    return await bring(hub, shelf, "lab/says", "lab/says", digest, tag, **more)  # type: ignore[arg-type]


def bundled(hub: FolderRegistry) -> tuple[str, str, str]:
    """A version with two images of one platform: (index, plain config, config of the one with weights)."""
    layout = Layout(hub.root / "lab/says").create()
    configs, children = [], []
    for kind in ("plain", "bundle"):
        layer = packed({kind: b"x"})
        config = json.dumps(
            {"os": "linux", "architecture": "amd64", "kind": kind, "rootfs": {"diff_ids": [sha256(layer)]}}
        ).encode()
        body = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": sha256(config),
                    "size": len(config),
                },
                "layers": [
                    {
                        "mediaType": "application/vnd.oci.image.layer.v1.tar",
                        "digest": sha256(layer),
                        "size": len(layer),
                    }
                ],
            }
        ).encode()
        for data in (layer, config, body):
            layout.write_blob(data)
        child = {
            "mediaType": MANIFEST,
            "digest": sha256(body),
            "size": len(body),
            "platform": {"os": "linux", "architecture": "amd64"},
        }
        children.append({**child, "annotations": {"io.xumi.bundle": "true"}} if kind == "bundle" else child)
        configs.append(sha256(config))
    # Bundles come last in what xumi builds; the other way round it must not matter.
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children[::-1]}).encode()
    layout.write_blob(index)
    layout.add(Descriptor(INDEX, sha256(index), len(index)), "1.0.0")
    return sha256(index), configs[0], configs[1]


@pytest.mark.parametrize("bundle", [False, True])
async def test_the_image_without_weights_is_given_unless_the_other_is_asked_for(
    hub: FolderRegistry, bundle: bool
) -> None:
    index, plain, with_weights = bundled(hub)
    shelf = Shelf(bundle=bundle)
    await out(hub, shelf, index)
    found = await shelf.stat("lab/says", "1.0.0")
    assert found is not None
    assert found.digest == (with_weights if bundle else plain)


async def test_the_image_of_the_daemons_platform_or_none(hub: FolderRegistry) -> None:
    digests = made(hub, architecture="arm64")
    wrong = Shelf()
    with pytest.raises(Unsupported, match="linux/amd64"):
        await out(hub, wrong, digests["index"])
    with pytest.raises(Unsupported, match="linux/arm64"):
        await out(hub, wrong, digests["image"])  # not an index, so its config tells
    assert wrong.loads == 0
    right = Shelf(architecture="arm64")
    await out(hub, right, digests["index"])
    assert (await right.stat("lab/says", "1.0.0")).digest == digests["config"]  # type: ignore[union-attr]


async def test_a_second_time_nothing_is_read_and_other_bytes_are_a_conflict(hub: FolderRegistry) -> None:
    digests, shelf = made(hub), Shelf()
    first = await out(hub, shelf, digests["index"])
    assert first.bytes_sent == int(digests["layer_bytes"])  # type: ignore[attr-defined]
    second = await out(hub, shelf, digests["index"])
    assert (second.bytes_sent, shelf.loads) == (0, 1)  # type: ignore[attr-defined]
    other = made(hub, "1.1.0")
    with pytest.raises(Conflict):
        await out(hub, shelf, other["index"])
    assert (await shelf.stat("lab/says", "1.0.0")).digest == digests["config"]  # type: ignore[union-attr]


async def test_a_failure_that_may_pass_is_tried_again_from_the_beginning(hub: FolderRegistry) -> None:
    digests, shelf, naps = made(hub), Shelf(), Naps()
    shelf.failures = [Unavailable("The socket went away.")]
    await out(hub, shelf, digests["index"], flow=Flow(sleep=naps))
    assert shelf.loads == 2
    assert await shelf.stat("lab/says", "1.0.0") is not None


async def test_a_copy_that_is_stopped_loads_nothing(hub: FolderRegistry) -> None:
    class Stopped(NoJournal):
        async def wanted(self) -> bool:
            return False

    digests, shelf = made(hub), Shelf()
    with pytest.raises(Cancelled):
        await out(hub, shelf, digests["index"], journal=Stopped())
    assert shelf.held == {}


async def test_images_come_in_through_the_depot_only(hub: FolderRegistry) -> None:
    digests, shelf = made(hub), Shelf()
    await out(hub, shelf, digests["index"])
    for target in (hub, Shelf()):
        with pytest.raises(Unsupported, match="through the depot"):
            await bring(shelf, target, "lab/says", "lab/says", digests["config"], "1.0.0")


async def test_what_comes_in_has_the_same_config_a_new_digest_and_no_verdict(lab: Lab, hub: FolderRegistry) -> None:
    await lab.project("lab", {"preset": "scanned"})
    digests, shelf = made(hub), Shelf()
    await out(hub, shelf, digests["index"])
    copied = await bring(shelf, lab.depot, "lab/says", "lab/says", digests["config"], "1.0.0")
    manifest = json.loads(await lab.depot.manifest("lab/says", copied.digest))
    assert manifest["config"]["digest"] == digests["config"]
    assert copied.digest not in digests.values()
    assert not await lab.depot.admitted("lab/says", copied.digest)
    again = await bring(shelf, lab.depot, "lab/says", "lab/says", digests["config"], "1.0.0")
    assert (again.digest, again.bytes_sent) == (copied.digest, 0)
    # Another image under the number is a conflict, and the number keeps its bytes.
    other = made(hub, "1.1.0")
    rival = Shelf()
    await out(hub, rival, other["index"], "1.0.0")
    with pytest.raises(Conflict):
        await bring(rival, lab.depot, "lab/says", "lab/says", other["config"], "1.0.0")


async def test_layers_that_are_not_those_of_the_config_do_not_come_in(lab: Lab) -> None:
    await lab.project("lab")
    shelf, layer = Shelf(), packed({"x": b"x"})
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [sha256(b"other")]}}).encode()
    described = Descriptor("application/vnd.oci.image.layer.v1.tar", sha256(layer), len(layer))
    shelf.held["lab/says", "1.0.0"] = WholeImage(config, [described])
    shelf.layers[sha256(layer)] = layer
    with pytest.raises(IntegrityError):
        await bring(shelf, lab.depot, "lab/says", "lab/says", sha256(config), "1.0.0", flow=Flow(sleep=Naps()))
    assert await lab.depot.stat("lab/says", "1.0.0") is None


async def test_a_mirror_takes_names_from_a_daemon_too(lab: Lab, hub: FolderRegistry) -> None:
    kept, gone = made(hub, "1.0.0"), made(hub, "1.1.0")
    shelf = Shelf()
    lab.faults["engine"] = shelf  # type: ignore[assignment]
    rule = await lab.rule("mirror", "hub", "engine", delete="untag")

    async def carried_out() -> None:
        async with lab.database.transaction() as conn:
            number = await runs.start(conn, rule, kind="run", by="admin")
        await runs.carry_out(lab.database, lab.places, number, now=lab.clock, sleep=Naps())

    await carried_out()
    assert {name: sha256(image.config) for name, image in shelf.held.items()} == {
        ("lab/says", "1.0.0"): kept["config"],
        ("lab/says", "1.1.0"): gone["config"],
    }
    await hub.delete_tag("lab/says", "1.1.0")
    await carried_out()
    assert [tag for _, tag in shelf.held] == ["1.0.0"]
    items = await lab.rows("select action, code, state from sync_items order by id desc limit 2")
    assert {tuple(item) for item in items} == {("skip", "same", "done"), ("prune", "gone", "done")}
