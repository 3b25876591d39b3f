"""A registry without the referrers API is asked for it once, and after that for what its tags say is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Capabilities, Registry, RegistrySettings, Tagging
from berth.adapters.registries.folder import FolderRegistry
from berth.oci.referrers import fallback_tag
from berth.sync.copy import copy_version
from berth.sync.listing import all_tags, compared
from berth.wire.plan import Terms
from tests.contracts.registries import peers
from tests.contracts.registries.oci_double import OciDouble, Quirks
from tests.unit.sync.made import MANIFEST, push_image
from tests.unit.wire.conftest import IMPATIENT
from tests.unit.wire.peer import Answer, Asked, running


class Old(OciDouble):
    """Distribution 2.8 knows no such route: its 404 is not in the form of the specification."""

    def _referrers(self, asked: Asked, name: str, digest: str) -> Answer:
        return Answer(404, b"404 page not found\n", {"Content-Type": "text/plain"})


def opened(url: str, capabilities: Capabilities | None = None) -> Registry:
    said = None if capabilities is None else capabilities.to_json()
    return Registries(retry=IMPATIENT).open(
        RegistrySettings("test", "distribution", url, options={}, capabilities=said)
    )


def asked_for(double: OciDouble, part: str) -> int:
    count = sum(part in one.path for one in double.asked)
    double.asked.clear()
    return count


async def test_where_the_route_is_unknown_it_is_asked_for_once(tmp_path: Path) -> None:
    double = Old(Quirks())
    async with running(double) as peer:
        source = opened(peer.url)
        roots = [await push_image(source, "lab/demo", f"1.0.{n}", layers=[str(n).encode()]) for n in range(3)]
        assert isinstance(source, Tagging)
        assert not source.referrers_in_tags
        double.asked.clear()
        target = FolderRegistry(tmp_path / "target")
        tags = await all_tags(source, "lab/demo")
        for number, root in enumerate(roots):
            await copy_version(source, target, "lab/demo", "lab/demo", root, f"1.0.{number}", known_tags=tags)
        assert source.referrers_in_tags
        paths = [one.path for one in double.asked]
        assert sum("/referrers/" in path for path in paths) == 1
        # Of the lists under tags only the first is asked for: the tags say that there are none.
        assert sum("/manifests/sha256-" in path for path in paths) == 1


@pytest.mark.parametrize(
    ("quirks", "capabilities"),
    [
        (Quirks(referrers=False), None),  # 404 in the words of the specification: something else may be unknown
        (Quirks(), None),
        (Quirks(), Capabilities(referrers=True)),
    ],
)
async def test_where_there_is_or_may_be_an_api_it_is_asked_about_each(
    quirks: Quirks, capabilities: Capabilities | None
) -> None:
    double = OciDouble(quirks)
    async with running(double) as peer:
        source = opened(peer.url, capabilities)
        roots = [await push_image(source, "lab/demo", f"1.0.{n}", layers=[str(n).encode()]) for n in range(3)]
        double.asked.clear()
        for root in roots:
            await source.referrers("lab/demo", root)
        assert asked_for(double, "/referrers/") == 3
        assert isinstance(source, Tagging)
        assert not source.referrers_in_tags


async def test_evidence_under_tags_is_found_by_copies_and_by_comparing(tmp_path: Path) -> None:
    double = Old(Quirks(subject=False))
    async with running(double) as peer:
        source = opened(peer.url, Capabilities(referrers=False, oci_subject=False))
        root = await push_image(source, "lab/demo", "1.0.0", layers=[b"code"])
        stat = await source.stat("lab/demo", root)
        assert stat is not None
        subject = {"mediaType": MANIFEST, "digest": root, "size": stat.size}
        said = await push_image(source, "lab/demo", None, layers=[b"sbom"], subject=subject, artifactType="text/spdx")
        tags = await all_tags(source, "lab/demo")
        assert fallback_tag(root) in tags
        target = FolderRegistry(tmp_path / "target")
        double.asked.clear()
        await copy_version(source, target, "lab/demo", "lab/demo", root, "1.0.0", known_tags=tags)
        assert [entry.digest for entry in await target.referrers("lab/demo", root)] == [said]
        ours, theirs = await compared(Terms("lab", model="demo"), source, target)
        assert [listed.evidence for listed in (*ours, *theirs)] == [frozenset({said})] * 2
        assert asked_for(double, "/referrers/") == 0


async def test_several_names_of_one_version_are_one_question(tmp_path: Path) -> None:
    double = OciDouble(Quirks())
    async with running(double) as peer:
        source = opened(peer.url, Capabilities(referrers=True))
        root = await push_image(source, "lab/demo", "1.0.0", layers=[b"code"])
        body = await source.manifest("lab/demo", root)
        for number in range(1, 40):
            await source.push_manifest("lab/demo", f"1.0.{number}", media_type=MANIFEST, body=body)
        target = FolderRegistry(tmp_path / "target")
        for number in range(40):
            await copy_version(source, target, "lab/demo", "lab/demo", root, f"1.0.{number}")
        double.asked.clear()
        ours, theirs = await compared(Terms("lab", model="demo"), source, target)
        assert len(ours) == len(theirs) == 40
        # As many as are under way at once may ask before the first has its answer.
        assert asked_for(double, "/referrers/") <= 16


async def test_debian_s_registry_has_no_such_route(tmp_path: Path) -> None:
    with peers.open_registry(tmp_path) as url:
        registry = opened(url)
        root = await push_image(registry, "lab/demo", "1.0.0", layers=[b"code"])
        assert await registry.referrers("lab/demo", root) == []
        assert isinstance(registry, Tagging)
        assert registry.referrers_in_tags
        await registry.close()


async def test_comparing_lists_the_tags_of_a_repository_once(tmp_path: Path) -> None:
    double = Old(Quirks())
    async with running(double) as peer:
        source = opened(peer.url, Capabilities(referrers=False))
        for model in ("one", "two", "three"):
            await push_image(source, f"lab/{model}", "1.0.0", layers=[model.encode()])
        target = FolderRegistry(tmp_path / "target")
        double.asked.clear()
        ours, theirs = await compared(Terms("lab"), source, target)
        assert [listed.repository for listed in ours] == ["lab/one", "lab/three", "lab/two"]
        assert theirs == []
        assert asked_for(double, "/tags/list") == 3
