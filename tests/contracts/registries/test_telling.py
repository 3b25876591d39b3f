"""Is a blob there? Registries that say so when an upload begins are not asked before; which do is tried."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Capabilities, Registry, RegistrySettings, Telling
from berth.adapters.registries.folder import FolderRegistry
from berth.sync.carrying import Copied
from berth.sync.copy import copy_version
from berth.sync.flow import Flow, Limits
from tests.contracts.registries import peers
from tests.contracts.registries.oci_double import OciDouble, Quirks
from tests.unit.sync.made import push_image, sha256
from tests.unit.wire.conftest import IMPATIENT
from tests.unit.wire.peer import running

LAYERS = [f"layer {number}".encode() * 1000 for number in range(12)]


def opened(url: str, *, mount: bool = True) -> Registry:
    capabilities = Capabilities(mount=mount).to_json()
    return Registries(retry=IMPATIENT).open(
        RegistrySettings("test", "distribution", url, options={}, capabilities=capabilities)
    )


async def copied(source: Registry, target: Registry, tag: str, layers: list[bytes], *, at_once: int = 1) -> Copied:
    root = await push_image(source, "lab/demo", tag, layers=layers)
    flow = Flow(Limits(blobs=at_once))
    return await copy_version(source, target, "lab/demo", "lab/demo", root, tag, flow=flow)


def counted(double: OciDouble) -> Counter[str]:
    """What was asked about blobs, by method; mounts apart."""
    asked = Counter("mount" if "mount" in one.query else one.method for one in double.asked if "/blobs/" in one.path)
    double.asked.clear()
    return asked


@pytest.mark.parametrize("tells", [True, False])
async def test_a_registry_is_relied_on_only_after_it_was_tried(tmp_path: Path, tells: bool) -> None:
    source, double = FolderRegistry(tmp_path / "source"), OciDouble(Quirks(mount=tells))
    async with running(double) as peer:
        target = opened(peer.url)
        first = await copied(source, target, "1.0.0", LAYERS)
        assert isinstance(target, Telling)
        assert target.tells_on_upload is tells
        assert (first.blobs_sent, first.blobs_present) == (13, 0)
        asked = counted(double)
        # The first eight blobs are asked for and sent; the last of them is then mounted onto itself.
        if tells:
            assert (asked["HEAD"], asked["mount"], asked["POST"], asked["PUT"]) == (8, 1 + 5, 8, 13)
        else:
            assert (asked["HEAD"], asked["mount"], asked["POST"], asked["PUT"]) == (13, 1, 13, 13)
        # What is there is found either way, and nothing of it is read.
        second = await copied(source, target, "1.1.0", [*LAYERS, b"new"])
        assert (second.blobs_sent, second.blobs_present) == (2, 12)
        assert counted(double)["PUT"] == 2
        await target.close()


async def test_where_mounts_are_off_nothing_is_tried(tmp_path: Path) -> None:
    source, double = FolderRegistry(tmp_path / "source"), OciDouble(Quirks())
    async with running(double) as peer:
        target = opened(peer.url, mount=False)
        await copied(source, target, "1.0.0", LAYERS)
        assert counted(double)["mount"] == 0
        await target.close()


async def test_dockers_registry_tells(tmp_path: Path) -> None:
    source = FolderRegistry(tmp_path / "source")
    with peers.open_registry(tmp_path) as url:
        target = opened(url)
        first = await copied(source, target, "1.0.0", LAYERS, at_once=4)
        assert isinstance(target, Telling)
        assert target.tells_on_upload
        assert (first.blobs_sent, first.blobs_present) == (13, 0)
        second = await copied(source, target, "1.1.0", [*LAYERS, b"new"], at_once=4)
        assert (second.blobs_sent, second.blobs_present) == (2, 12)
        assert b"".join([piece async for piece in target.blob("lab/demo", sha256(LAYERS[3]))]) == LAYERS[3]
        await target.close()
