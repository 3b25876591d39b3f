"""Copying one version: whole, by digest, its name last, and again after anything that goes wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from berth.adapters.registries.folder import FolderRegistry
from berth.errors import (
    BerthError,
    BlobUnknown,
    Conflict,
    DigestInvalid,
    IntegrityError,
    RemoteAuthError,
    RemoteError,
    TooLarge,
    TooManyRequests,
    Unavailable,
)
from berth.oci.descriptor import Descriptor
from berth.sync.carrying import Copied
from berth.sync.copy import copy_version
from berth.sync.flow import Cancelled, Flow, Limits, NoJournal
from tests.unit.sync.made import Faulty, Naps, content, push_blob, push_image, push_version

HERE, THERE = "lab/demo", "prod/demo"


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[FolderRegistry]:
    registry = FolderRegistry(tmp_path / "source")
    yield registry
    await registry.close()


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[FolderRegistry]:
    registry = FolderRegistry(tmp_path / "target")
    yield registry
    await registry.close()


def flow(naps: Naps | None = None, **limits: object) -> Flow:
    return Flow(Limits(**limits), sleep=naps or Naps())  # type: ignore[arg-type]


async def copy(source: object, target: object, digest: str, tag: str | None = "1.0.0", **more: object) -> Copied:
    more.setdefault("flow", flow())
    return await copy_version(source, target, HERE, THERE, digest, tag, **more)  # type: ignore[arg-type]


async def test_everything_arrives_byte_for_byte(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_version(source, HERE, "1.0.0")
    copied = await copy(source, target, root)
    there = await content(target, THERE, "1.0.0")
    assert there == await content(source, HERE, "1.0.0")
    # 2 images of 3 layers and 1 config, an SBOM and a signature of 1 layer and 1 config each.
    assert copied.blobs_sent == 12
    assert copied.bytes_sent == sum(len(d) for d in there.values() if d[:1] != b"{" or b"salt" in d)
    assert [entry.artifact_type for entry in await target.referrers(THERE, root)] == ["text/spdx"]


async def test_a_second_copy_sends_nothing(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_version(source, HERE, "1.0.0")
    await copy(source, target, root)
    watched = Faulty(target)
    copied = await copy(source, watched, root)
    assert (copied.bytes_sent, copied.manifests_sent, watched.pushed, watched.blobs) == (0, 0, [], [])


async def test_the_name_comes_last(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_version(source, HERE, "1.0.0")
    watched = Faulty(target)
    await copy(source, watched, root)
    assert watched.pushed[-1] == "1.0.0"
    children = [m["digest"] for m in json.loads(await source.manifest(HERE, root))["manifests"]]
    assert all(watched.pushed.index(child) < watched.pushed.index(root) for child in children)


async def test_without_evidence_storing_and_naming_is_one_request(
    source: FolderRegistry, target: FolderRegistry
) -> None:
    root = await push_image(source, HERE, "1.0.0", layers=[b"code"])
    watched = Faulty(target)
    copied = await copy(source, watched, root)
    assert (watched.pushed, copied.manifests_sent, copied.tagged) == (["1.0.0"], 1, True)
    assert await content(target, THERE, "1.0.0") == await content(source, HERE, "1.0.0")


async def test_the_source_is_asked_once_for_each_manifest(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_version(source, HERE, "1.0.0")
    asked = Faulty(source)
    await copy(asked, target, root)
    # The index, its two images, a report and a signature.
    assert asked.calls.count("manifest") == 5


async def test_evidence_of_a_part_keeps_the_name_until_last(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_version(source, HERE, "1.0.0")
    (entry,) = await source.referrers(HERE, root)
    await source.delete_manifest(HERE, entry.digest)
    await source.delete_tag(HERE, root.replace(":", "-") + ".sig")
    part = json.loads(await source.manifest(HERE, root))["manifests"][0]
    report = await push_image(source, HERE, None, layers=[b"sbom"], subject=part, artifactType="text/spdx")
    watched = Faulty(target)
    await copy(source, watched, root)
    assert watched.pushed[-3:] == [root, report, "1.0.0"]


async def test_other_bytes_under_the_name_are_kept_and_reported(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_version(source, HERE, "1.0.0")
    theirs = await push_image(target, THERE, "1.0.0", layers=[b"theirs"])
    watched = Faulty(target)
    with pytest.raises(Conflict) as refused:
        await copy(source, watched, root)
    assert refused.value.detail["target_digest"] == theirs
    assert watched.pushed == watched.blobs == []
    found = await target.stat(THERE, "1.0.0")
    assert found is not None
    assert found.digest == theirs


async def test_what_the_target_has_is_not_sent(source: FolderRegistry, target: FolderRegistry) -> None:
    shared = b"weights" * 1000
    root = await push_image(source, HERE, "1.0.0", layers=[shared, b"new"])
    await push_blob(target, THERE, shared)
    copied = await copy(source, target, root)
    assert (copied.blobs_present, copied.blobs_sent) == (1, 2)


async def test_a_blob_that_another_model_of_the_run_brought_is_mounted(
    source: FolderRegistry, target: FolderRegistry
) -> None:
    shared = b"weights" * 1000
    one = await push_image(source, HERE, "1.0.0", layers=[shared])
    two = await push_image(source, "lab/other", "1.0.0", layers=[shared])
    together = flow()
    await copy(source, target, one, flow=together)
    copied = await copy_version(source, target, "lab/other", "prod/other", two, "1.0.0", flow=together)
    assert (copied.blobs_mounted, copied.blobs_sent) == (1, 1)


async def test_within_one_registry_bytes_are_mounted(source: FolderRegistry) -> None:
    root = await push_version(source, HERE, "1.0.0")
    copied = await copy(source, source, root)
    assert copied.bytes_sent == 0
    assert await content(source, THERE, "1.0.0") == await content(source, HERE, "1.0.0")


async def test_evidence_that_comes_later_follows(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_image(source, HERE, "1.0.0", layers=[b"layer"])
    await copy(source, target, root)
    await push_image(source, HERE, root.replace(":", "-") + ".sig", layers=[b"signature"])
    await copy(source, target, root)
    assert await content(target, THERE, "1.0.0") == await content(source, HERE, "1.0.0")


async def test_signatures_that_only_the_target_has_are_kept(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_image(source, HERE, "1.0.0", layers=[b"layer"])
    tag = root.replace(":", "-") + ".sig"
    await push_image(source, HERE, tag, layers=[b"ours"])
    theirs = await push_image(target, THERE, tag, layers=[b"theirs"])
    copied = await copy(source, target, root)
    found = await target.stat(THERE, tag)
    assert found is not None
    assert found.digest == theirs
    assert len(copied.notes) == 1


async def test_a_signature_tag_that_grew_is_replaced(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_image(source, HERE, "1.0.0", layers=[b"layer"])
    tag = root.replace(":", "-") + ".sig"
    await push_image(target, THERE, tag, layers=[b"first"])
    both = await push_image(source, HERE, tag, layers=[b"first", b"second"])
    await copy(source, target, root)
    found = await target.stat(THERE, tag)
    assert found is not None
    assert found.digest == both


# -- what goes wrong


@pytest.mark.parametrize("failure", [Unavailable("away"), TooManyRequests("slow down"), RemoteError("500")])
async def test_a_passing_failure_is_tried_again(
    source: FolderRegistry, target: FolderRegistry, failure: BerthError
) -> None:
    root = await push_version(source, HERE, "1.0.0")
    seen: set[str] = set()

    def once_each(_: int, name: str) -> Exception | None:
        if name in seen:
            return None
        seen.add(name)
        return failure

    naps = Naps()
    await copy(Faulty(source, fails=once_each), Faulty(target), root, flow=flow(naps))
    assert await content(target, THERE, "1.0.0") == await content(source, HERE, "1.0.0")
    assert naps.taken


async def test_a_registry_says_how_long_to_wait(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_image(source, HERE, "1.0.0", layers=[b"layer"])
    naps = Naps()
    slow = TooManyRequests("slow down", detail={"retry_after": 7})
    refusing = Faulty(target, fails=lambda number, _: slow if number == 1 else None)
    await copy(source, refusing, root, flow=flow(naps))
    assert naps.taken == [7.0]


async def test_refused_credentials_are_not_tried_again(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_image(source, HERE, "1.0.0", layers=[b"layer"])
    naps = Naps()
    locked = Faulty(target, fails=lambda _, __: RemoteAuthError("no"))
    with pytest.raises(RemoteAuthError):
        await copy(source, locked, root, flow=flow(naps))
    assert naps.taken == []


async def test_a_lasting_failure_leaves_no_name(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_version(source, HERE, "1.0.0")
    broken = Faulty(source, fails=lambda _, name: Unavailable("away") if name == "blob" else None)
    with pytest.raises(Unavailable):
        await copy(broken, target, root)
    assert await target.stat(THERE, "1.0.0") is None
    assert await target.stat(THERE, root) is None


async def test_wherever_it_stops_it_goes_on_and_repeats_only_what_was_in_flight(
    source: FolderRegistry, tmp_path: Path
) -> None:
    """Every operation at the target is once the last one; each time the next copy finishes."""
    root = await push_version(source, HERE, "1.0.0", size=10)
    whole = await content(source, HERE, "1.0.0")
    clean = Faulty(FolderRegistry(tmp_path / "clean"))
    await copy(source, clean, root)
    operations, blobs = len(clean.calls), 12
    for last in range(1, operations + 1, 5):
        target = FolderRegistry(tmp_path / f"target{last}")
        # Not in the family: nothing below catches it, as nothing catches a kill.
        dying = Faulty(target, fails=lambda number, _, last=last: KeyError("killed") if number >= last else None)  # type: ignore[misc]
        with pytest.raises(KeyError):
            await copy(source, dying, root, flow=flow(blobs=2))
        shown = await target.stat(THERE, "1.0.0")
        if shown is not None:
            assert await content(target, THERE, "1.0.0") == whole
        again = Faulty(target)
        copied = await copy(source, again, root)
        assert await content(target, THERE, "1.0.0") == whole
        # Only what was in flight when it ended is sent twice.
        assert copied.blobs_sent <= blobs - len(dying.blobs)
        await target.close()
    await clean.inner.close()


async def test_wrong_bytes_never_become_a_version(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_version(source, HERE, "1.0.0")
    liar = Faulty(source, lies=lambda data: data.replace(b"lab", b"bad") if data[:1] != b"{" else data)
    with pytest.raises(DigestInvalid, match="The source gives other bytes"):
        await copy(liar, target, root)
    assert await target.stat(THERE, "1.0.0") is None


async def test_a_manifest_with_other_bytes_is_refused(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_version(source, HERE, "1.0.0")
    with pytest.raises(IntegrityError):
        await copy(Faulty(source, lies=lambda data: data + b" "), target, root)
    assert (await target.tags(THERE)).items == []


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + data])
async def test_truncated_and_endless_blobs_are_refused(
    source: FolderRegistry, target: FolderRegistry, change: object
) -> None:
    root = await push_image(source, HERE, "1.0.0", layers=[b"layer" * 100])
    liar = Faulty(source, lies=lambda data: data if data[:1] == b"{" else change(data))  # type: ignore[operator]
    with pytest.raises((DigestInvalid, IntegrityError)):
        await copy(liar, target, root)
    assert await target.stat(THERE, "1.0.0") is None


async def test_a_blob_the_source_lost_is_said_by_name(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_image(source, HERE, "1.0.0", layers=[b"layer"])
    lost = BlobUnknown("gone")
    with pytest.raises(BlobUnknown):
        await copy(Faulty(source, fails=lambda _, name: lost if name == "blob" else None), target, root)


async def test_a_target_that_shows_something_else_is_not_believed(
    source: FolderRegistry, target: FolderRegistry
) -> None:
    root = await push_image(source, HERE, "1.0.0", layers=[b"layer"])
    other = await push_image(target, THERE, "other", layers=[b"other"])

    class Confused(Faulty):
        async def push_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
            if reference == "1.0.0":
                kept = await self.inner.manifest(repository, other)
                return await self.inner.push_manifest(repository, reference, media_type=media_type, body=kept)
            return await super().push_manifest(repository, reference, media_type=media_type, body=body)

    with pytest.raises(IntegrityError):
        await copy(source, Confused(target), root)


async def test_what_the_target_does_not_take_is_said_before_a_byte_moves(
    source: FolderRegistry, target: FolderRegistry
) -> None:
    root = await push_image(source, HERE, "1.0.0", layers=[b"small", b"large" * 1000])

    class Small(Faulty):
        def check_content(self, repository: str, tag: str | None, content: Iterable[Descriptor]) -> None:
            if any(item.size > 1000 for item in content):
                raise TooLarge(f"{repository} takes 1000 bytes a layer.")

    small = Small(target)
    with pytest.raises(TooLarge):
        await copy(source, small, root)
    assert small.blobs == small.pushed == []


# -- limits


class Stopping(NoJournal):
    def __init__(self, after: int) -> None:
        self.left = after
        self.told: list[tuple[str, int, int]] = []
        self.plans: list[tuple[int, int]] = []

    async def wanted(self) -> bool:
        return self.left > 0

    async def planned(self, blobs: int, size: int) -> None:
        self.plans.append((blobs, size))

    async def whole(self, digest: str, *, size: int, sent: int) -> None:
        self.left -= 1
        self.told.append((digest, size, sent))


async def test_a_stopped_copy_keeps_what_arrived(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_version(source, HERE, "1.0.0")
    with pytest.raises(Cancelled):
        await copy(source, target, root, journal=Stopping(3), flow=flow(blobs=1))
    assert await target.stat(THERE, "1.0.0") is None
    copied = await copy(source, target, root)
    assert copied.blobs_present == 3


async def test_the_journal_adds_up_to_what_was_sent(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_version(source, HERE, "1.0.0")
    journal = Stopping(1000)
    moved: list[int] = []
    copied = await copy(source, target, root, journal=journal, progress=moved.append)
    assert sum(sent for _, _, sent in journal.told) == copied.bytes_sent == sum(moved)


async def test_the_journal_hears_what_is_to_come_and_every_part_of_it(
    source: FolderRegistry, target: FolderRegistry
) -> None:
    root = await push_version(source, HERE, "1.0.0")
    with pytest.raises(Cancelled):
        await copy(source, target, root, journal=Stopping(3), flow=flow(blobs=1))
    journal = Stopping(1000)
    copied = await copy(source, target, root, journal=journal)
    # What is there already counts as done, though nothing is sent for it.
    assert len(journal.told) == sum(blobs for blobs, _ in journal.plans)
    assert sum(size for _, size, _ in journal.told) == sum(size for _, size in journal.plans)
    assert copied.blobs_present == len([sent for _, _, sent in journal.told if sent == 0]) == 3


async def test_the_bandwidth_is_kept(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_image(source, HERE, "1.0.0", layers=[bytes([n]) * 1000 for n in range(5)])
    naps = Naps()
    slow = Flow(Limits(bytes_per_second=1000), sleep=naps, clock=lambda: 0.0)
    await copy(source, target, root, flow=slow)
    # With a clock that stands still, the last piece waits for all bytes before it, at least four layers.
    assert max(naps.taken) >= 4.0


async def test_no_more_blobs_at_once_than_allowed(source: FolderRegistry, target: FolderRegistry) -> None:
    root = await push_image(source, HERE, "1.0.0", layers=[bytes([n]) * 100_000 for n in range(8)])
    running, most = 0, 0

    class Counting(Faulty):
        async def push_blob(self, repository: str, digest: str, *, size: int, chunks: object) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await super().push_blob(repository, digest, size=size, chunks=chunks)  # type: ignore[arg-type]
            running -= 1

    await copy(source, Counting(target), root, flow=flow(blobs=3))
    assert most == 3
