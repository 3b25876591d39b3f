"""A blob so large that it goes in chunks: what a break costs, what is counted, and who goes on with it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text

from berth.adapters.registries import distribution
from berth.adapters.registries.contract import Registry, RegistrySettings
from berth.adapters.registries.distribution import DistributionRegistry
from berth.adapters.registries.folder import FolderRegistry
from berth.adapters.registries.ghcr import GhcrRegistry
from berth.db.sealing import Sealer
from berth.errors import Conflict
from berth.jobs import remove_stale_uploads
from berth.sync import carrying, large, runs
from berth.sync.copy import copy_version
from berth.sync.flow import Flow, Limits, NoJournal
from berth.sync.journal import queries
from berth.sync.publishing import queries as placing
from berth.sync.publishing.journal import PlaceJournal
from berth.sync.publishing.publish import publish
from berth.sync.resuming.kept import KeptUploads
from berth.sync.resuming.queries import Owner
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import Naps, push_image
from tests.unit.sync.peers import REPOSITORY, Shelf, sha256
from tests.unit.sync.test_faults import IMPATIENT
from tests.unit.wire.peer import Answer, Asked, Peer, running

CHUNK = 10_000
LARGE = bytes(range(251)) * 400  # 100,400 bytes
SMALL = b"small" * 1000
SEALER = Sealer(b"0123456789abcdef0123456789abcdef")


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sizes of the subject, a few thousand times smaller."""
    monkeypatch.setattr(carrying, "LARGE_BYTES", 50_000)
    monkeypatch.setattr(distribution, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(large, "BURST_BYTES", CHUNK // 2)
    monkeypatch.setattr(large, "KEEP_SECONDS", 0.0)


class Sessions(Shelf):
    """A shelf with uploads in several requests; `told` is asked about each PATCH before it is taken."""

    told: Callable[[Asked], Answer | None] = staticmethod(lambda _: None)
    open: dict[str, bytes]
    bodies: int = 0

    def _upload(self, asked: Asked) -> Answer:
        if not hasattr(self, "open"):
            self.open = {}
        self.bodies += len(asked.body)
        name = asked.path.rpartition("/")[2]
        if asked.method == "POST":
            self.open[str(self.count)] = b""
            return super()._upload(asked)
        if name not in self.open:
            return Answer(404)
        if asked.method == "DELETE":
            del self.open[name]
            return Answer(204)
        if asked.method == "PATCH":
            spoiled = self.told(asked)
            if spoiled is not None:
                return spoiled
            self.open[name] += asked.body
        if asked.method in ("PATCH", "GET"):
            headers = {"Location": asked.path, "Range": f"0-{max(0, len(self.open[name]) - 1)}"}
            return Answer(202 if asked.method == "PATCH" else 204, headers=headers)
        return super()._upload(Asked(asked.method, asked.target, asked.headers, self.open.pop(name) + asked.body))


def peer_of(url: str, kind: type[DistributionRegistry] = DistributionRegistry, **more: Any) -> DistributionRegistry:
    settings = RegistrySettings("peer", kind.KIND.name, url, capabilities={"referrers": False, **more})
    return kind(settings, retry=IMPATIENT)


@asynccontextmanager
async def places(
    source: Shelf, target: Shelf, **more: Any
) -> AsyncIterator[tuple[DistributionRegistry, DistributionRegistry, Peer]]:
    async with running(source) as near, running(target) as far:
        here, there = peer_of(near.url), peer_of(far.url, **more)
        try:
            yield here, there, far
        finally:
            await here.close()
            await there.close()


def prepared() -> tuple[Shelf, str]:
    source = Shelf()
    return source, source.add_image("1.0.0", [LARGE, SMALL])


def chunks(far: Peer) -> list[str]:
    return [asked.headers["content-range"] for asked in far.asked if asked.method == "PATCH"]


async def test_a_break_in_the_middle_costs_a_chunk_and_every_byte_that_went_is_counted() -> None:
    source, digest = prepared()
    target = Sessions()
    once = [Answer(0)]
    target.told = lambda asked: once.pop() if once and asked.headers["content-range"].startswith("50000-") else None
    moved: list[int] = []
    async with places(source, target) as (here, there, far):
        copied = await copy_version(
            here, there, REPOSITORY, REPOSITORY, digest, "1.0.0",
            flow=Flow(sleep=Naps()), progress=moved.append, known_tags=frozenset(),
        )  # fmt: skip
    assert target.blobs[sha256(LARGE)] == LARGE
    assert [r.partition("-")[0] for r in chunks(far)].count("50000") == 2
    assert len(chunks(far)) == 12
    # Bytes that arrived at the target's door, in vain or not; progress tells each byte once.
    assert copied.bytes_sent == target.bodies
    assert sum(moved) == target.bodies - CHUNK


async def test_a_target_that_is_away_for_long_costs_a_new_try_and_no_byte_is_told_twice() -> None:
    source, digest = prepared()
    target = Sessions()
    # More than one try takes, fewer than all.
    refusals = [Answer(503)] * (IMPATIENT.attempts + 1)

    def away(asked: Asked) -> Answer | None:
        return refusals.pop() if refusals and asked.headers["content-range"].startswith("50000-") else None

    target.told = away
    moved: list[int] = []
    async with places(source, target) as (here, there, far):
        copied = await copy_version(
            here, there, REPOSITORY, REPOSITORY, digest, "1.0.0",
            flow=Flow(sleep=Naps()), progress=moved.append, known_tags=frozenset(),
        )  # fmt: skip
    wasted = CHUNK * (IMPATIENT.attempts + 1)
    assert (chunks(far).count("0-9999"), target.blobs[sha256(LARGE)]) == (1, LARGE)
    assert copied.bytes_sent == target.bodies
    assert sum(moved) == target.bodies - wasted


async def test_small_blobs_go_as_ever() -> None:
    source, digest = prepared()
    target = Sessions()
    async with places(source, target) as (here, there, far):
        await copy_version(here, there, REPOSITORY, REPOSITORY, digest, "1.0.0", known_tags=frozenset())
    small = [asked for asked in far.asked if asked.query.get("digest") == [sha256(SMALL)]]
    assert [(asked.method, asked.body) for asked in small] == [("PUT", SMALL)]
    # Two small ones, the layer and the configuration, in three requests each; the large one in eleven chunks.
    blobs = [asked.method for asked in far.asked if "/blobs/" in asked.path]
    assert {method: blobs.count(method) for method in blobs} == {"HEAD": 3, "POST": 3, "PUT": 3, "PATCH": 11}


@pytest.mark.parametrize(
    ("kind", "capable"), [(DistributionRegistry, False), (GhcrRegistry, True)], ids=["declared", "ghcr"]
)
async def test_where_chunks_are_not_used_a_large_blob_goes_in_one_request(
    kind: type[DistributionRegistry], capable: bool
) -> None:
    source, digest = prepared()
    target = Sessions()
    async with running(source) as near, running(target) as far:
        here, there = peer_of(near.url), peer_of(far.url, kind, chunked_upload=capable)
        copied = await copy_version(here, there, REPOSITORY, REPOSITORY, digest, "1.0.0", known_tags=frozenset())
        await here.close()
        await there.close()
    assert chunks(far) == []
    assert (target.blobs[sha256(LARGE)], copied.bytes_sent) == (LARGE, target.bodies)


async def test_the_rate_is_asked_for_before_a_chunk_and_kept_on_the_whole() -> None:
    source, digest = prepared()
    target, naps = Sessions(), Naps()
    async with places(source, target) as (here, there, far):
        flow = Flow(Limits(blobs=1, bytes_per_second=1000), sleep=naps, clock=lambda: 0.0)
        await copy_version(here, there, REPOSITORY, REPOSITORY, digest, "1.0.0", flow=flow, known_tags=frozenset())
    # With a clock that stands still, each wait is until all bytes before it have passed.
    assert max(naps.taken) == pytest.approx((len(LARGE) + len(SMALL)) / 1000, rel=0.02)
    # No more than a small chunk passes at once.
    assert chunks(far)[:2] == ["0-4999", "5000-9999"]
    waits = [0.0, *naps.taken]
    assert max(after - before for before, after in itertools.pairwise(waits)) <= CHUNK / 2 / 1000 + 1e-6


@pytest.mark.parametrize(("seconds_a_chunk", "kept"), [(0.0, 1), (0.1, 4), (1.0, 11)])
async def test_a_fast_copy_does_not_write_down_every_chunk(
    monkeypatch: pytest.MonkeyPatch, seconds_a_chunk: float, kept: int
) -> None:
    class Noting(NoJournal):
        async def keep(self, repository: str, digest: str, *, session: str | None, offset: int) -> None:
            notes.append(offset)

    notes: list[int] = []
    source, digest = prepared()
    target, now = Sessions(), 0.0

    def later(_: Asked) -> Answer | None:
        nonlocal now
        now += seconds_a_chunk
        return None

    monkeypatch.setattr(large, "KEEP_SECONDS", 0.25)
    target.told = later
    async with places(source, target) as (here, there, _):
        flow = Flow(Limits(blobs=1), clock=lambda: now)
        await copy_version(
            here, there, REPOSITORY, REPOSITORY, digest, "1.0.0", flow=flow, journal=Noting(), known_tags=frozenset()
        )
    # The first chunk at once; at the end it is forgotten.
    assert (len(notes) - 1, notes[0], notes[-1]) == (kept, CHUNK, 0)


async def test_a_copy_that_is_stopped_ends_its_session_at_once() -> None:
    class Stopping(NoJournal):
        async def wanted(self) -> bool:
            return len(target.open.get("patched", b"")) == 0 if hasattr(target, "open") else True

    source, digest = prepared()
    target = Sessions()

    def stop(asked: Asked) -> Answer | None:
        if asked.headers["content-range"].startswith("20000-"):
            target.open["patched"] = b"yes"
        return None

    target.told = stop
    async with places(source, target) as (here, there, _):
        with pytest.raises(Conflict):
            await copy_version(
                here, there, REPOSITORY, REPOSITORY, digest, "1.0.0", journal=Stopping(), known_tags=frozenset()
            )
    # Of the small ones a session may have been begun whose answer nobody waited for; it holds nothing.
    assert {name for name, held in target.open.items() if held} == {"patched"}
    assert target.tags == {}


# -- another process


@asynccontextmanager
async def hub(lab: Lab, target: Shelf) -> AsyncIterator[Peer]:
    """The lab with `target` as its registry `hub`."""
    async with running(target) as far:

        async def remote(name: str) -> Registry:
            return peer_of(far.url) if name == "hub" else FolderRegistry(lab.folder / name)

        lab.places._remote = remote
        yield far


class Hanging:
    """Says when the fourth chunk is there, and answers no more."""

    def __init__(self, target: Sessions) -> None:
        self.target = target
        self.reached = asyncio.Event()
        self.hang = True

    async def __call__(self, asked: Asked) -> Answer:
        if self.hang and asked.method == "PATCH" and asked.headers["content-range"].startswith("40000-"):
            self.reached.set()
            await asyncio.Event().wait()
        return self.target(asked)


async def killed(task: asyncio.Task[None], hanging: Hanging) -> None:
    """As far as the database and the registry can tell, the process has died."""
    await hanging.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hanging.hang = False


async def test_a_publication_goes_on_in_the_middle_of_a_blob_in_another_process(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    await push_image(lab.depot, REPOSITORY, "1.0.0", layers=[LARGE, SMALL])
    (args,) = await lab.jobs("publish_version")
    target = Sessions()
    hanging = Hanging(target)
    async with hub(lab, hanging) as far:  # type: ignore[arg-type]
        bring = lambda: publish(lab.database, lab.places, now=lab.clock, sleep=Naps(), sealer=lambda: SEALER, **args)  # noqa: E731
        await killed(asyncio.create_task(bring()), hanging)
        ((sealed, offset),) = await lab.rows("select session, offset_bytes from sync_uploads")
        assert (offset, b"/v2/" in bytes(sealed)) == (40_000, False)
        far.asked.clear()
        await bring()
    assert chunks(far)[0] == "40000-49999"
    assert target.blobs[sha256(LARGE)] == LARGE
    assert await lab.rows("select 1 from sync_uploads") == []
    ((state, sent, done, total),) = await lab.rows("select state, bytes, bytes_done, bytes_total from placements")
    assert (state, done) == ("published", total)
    # Of the large blob only what went now: what the process that died had sent was never written down as sent.
    assert sent == total - 40_000


async def test_how_far_a_publication_is_counts_the_part_that_was_there(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    await push_image(lab.depot, REPOSITORY, "1.0.0", layers=[LARGE, SMALL])
    async with lab.database.transaction() as conn:
        (version,) = await conn.scalars(text("select id from versions"))
        place, _, _ = await placing.intend(
            conn, version=version, registry="hub", repository=REPOSITORY, now=lab.now, error=None
        )
    uploads = KeptUploads(lab.database, None, Owner(placement=place), now=lab.clock, sleep=Naps())
    journal = PlaceJournal(lab.database, place, uploads=uploads, sleep=Naps())
    await journal.planned(2, len(LARGE) + len(SMALL))
    journal.moved(40_000)
    journal.moved(len(LARGE) - 40_000)
    await journal.whole(sha256(LARGE), size=len(LARGE), sent=len(LARGE) - 40_000)
    assert await lab.rows("select bytes, bytes_done from placements") == [(len(LARGE) - 40_000, len(LARGE))]


async def start(lab: Lab) -> int:
    await lab.project("lab")
    await push_image(lab.depot, REPOSITORY, "1.0.0", layers=[LARGE, SMALL])
    rule = await lab.rule("out", "depot", "hub")
    async with lab.database.transaction() as conn:
        return await runs.start(conn, rule, kind="run", by="ada")


async def go_on(lab: Lab, run_id: int, sealer: Sealer | None = SEALER) -> None:
    seal = None if sealer is None else lambda: sealer
    await runs.carry_out(lab.database, lab.places, run_id, now=lab.clock, sleep=Naps(), sealer=seal)


@pytest.mark.parametrize(
    ("sealer", "first"),
    [(SEALER, "40000-49999"), (Sealer(b"another key of the installation."), "0-9999"), (None, "0-9999")],
    ids=["same key", "other key", "no key"],
)
async def test_a_run_that_is_taken_up_goes_on_where_its_session_can_be_read(
    lab: Lab, sealer: Sealer | None, first: str
) -> None:
    run_id = await start(lab)
    target = Sessions()
    hanging = Hanging(target)
    async with hub(lab, hanging) as far:  # type: ignore[arg-type]
        await killed(asyncio.create_task(go_on(lab, run_id)), hanging)
        far.asked.clear()
        await go_on(lab, run_id, sealer)
    assert (chunks(far)[0], target.blobs[sha256(LARGE)]) == (first, LARGE)
    async with lab.database.reading() as conn:
        run = await queries.run_by_id(conn, run_id)
    assert run is not None
    assert run.state == "succeeded"
    assert await lab.rows("select 1 from sync_uploads") == []


async def test_a_run_that_ends_without_the_blob_ends_its_session_too(lab: Lab) -> None:
    run_id = await start(lab)
    target = Sessions()
    target.told = lambda asked: Answer(503) if asked.headers["content-range"].startswith("40000-") else None
    async with hub(lab, target) as far:
        await go_on(lab, run_id)
    async with lab.database.reading() as conn:
        run = await queries.run_by_id(conn, run_id)
    assert run is not None
    assert run.state == "failed"
    # Four chunks of it had arrived, in one session for all tries, and nobody will come back for them.
    assert chunks(far)[:4] == ["0-9999", "10000-19999", "20000-29999", "30000-39999"]
    assert chunks(far).count("0-9999") == 1
    assert (target.open, await lab.rows("select 1 from sync_uploads")) == ({}, [])
    assert [asked.method for asked in far.asked].count("DELETE") == 1


async def test_a_session_that_nobody_comes_back_for_is_forgotten(lab: Lab) -> None:
    run_id = await start(lab)
    hanging = Hanging(Sessions())
    async with hub(lab, hanging):  # type: ignore[arg-type]
        await killed(asyncio.create_task(go_on(lab, run_id)), hanging)
    await remove_stale_uploads.run(lab.context)
    assert len(await lab.rows("select 1 from sync_uploads")) == 1
    lab.forward(seconds=lab.context.settings.upload_max_age_seconds + 1)
    await remove_stale_uploads.run(lab.context)
    assert await lab.rows("select 1 from sync_uploads") == []
