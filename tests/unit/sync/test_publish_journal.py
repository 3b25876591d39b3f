"""How far a publication is: seen while it runs, kept when it breaks, stopped and gone on with."""

from __future__ import annotations

from collections.abc import AsyncIterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from berth.errors import Unavailable
from berth.jobs import runner
from berth.sync.journal import queries as sync_queries
from berth.sync.publishing import queries
from berth.sync.publishing.publish import publish
from berth.sync.publishing.queries import Placement
from berth.sync.publishing.record import next_try
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import Faulty, Naps, push_image
from tests.unit.sync.test_runs import carry_out, outcome

LAYERS = [bytes([n]) * 10_000 for n in range(1, 6)]
# Five layers and a configuration.
BLOBS = 6


async def prepared(lab: Lab) -> dict[str, Any]:
    """A version that is about to go home; the arguments of its job."""
    await lab.project("lab", home="hub")
    await push_image(lab.depot, "lab/net", "1.0.0", layers=LAYERS)
    (args,) = await lab.jobs("publish_version")
    return args


async def set_limits(lab: Lab, document: str) -> None:
    async with lab.database.transaction() as conn:
        await conn.execute(text("update projects set publishing = cast(:d as jsonb)"), {"d": document})


async def place(lab: Lab) -> Placement:
    async with lab.database.reading() as conn:
        version = await conn.scalar(text("select id from versions"))
        (found,) = await queries.placements_of_version(conn, version)
    return found


async def bring(lab: Lab, args: dict[str, Any], naps: Naps | None = None) -> None:
    await publish(lab.database, lab.places, now=lab.clock, sleep=naps or Naps(), **args)


class Stops(Faulty):
    """Does something when the third blob begins."""

    def __init__(self, lab: Lab, then: Any) -> None:
        super().__init__(lab.hub)
        self.begun = 0
        self.then = then

    async def push_blob(self, repository: str, digest: str, *, size: int, chunks: AsyncIterable[bytes]) -> None:
        self.begun += 1
        if self.begun == 3:
            await self.then()
        await super().push_blob(repository, digest, size=size, chunks=chunks)


async def test_what_is_there_when_a_publication_breaks_is_seen_and_not_sent_again(lab: Lab) -> None:
    args = await prepared(lab)
    await set_limits(lab, '{"parallel_blobs": 1}')
    broken = Faulty(lab.hub, fails=lambda _, name: Unavailable("It fell.") if len(broken.blobs) >= 2 else None)
    lab.faults["hub"] = broken
    with pytest.raises(Unavailable):
        await bring(lab, args)
    found = await place(lab)
    assert (found.state, found.blobs_done, found.blobs_total, found.bytes_done) == ("failed", 2, BLOBS, 20_000)
    assert (found.error, found.attempts, found.started_at) == ("It fell.", 1, lab.now)
    assert found.next_try_at is not None
    assert found.next_try_at > lab.now
    assert await lab.hub.stat("lab/net", "1.0.0") is None

    lab.faults["hub"] = whole = Faulty(lab.hub)
    await bring(lab, args)
    found = await place(lab)
    assert (found.state, found.blobs_done, found.bytes_done) == ("published", BLOBS, found.bytes_total)
    assert found.bytes == found.bytes_total
    assert whole.bytes_pushed == found.bytes_total - 20_000
    assert (found.attempts, found.next_try_at) == (0, None)


async def test_a_held_publication_stops_under_way_and_goes_on_when_it_is_released(lab: Lab) -> None:
    args = await prepared(lab)
    await set_limits(lab, '{"parallel_blobs": 1}')

    async def hold() -> None:
        async with lab.database.transaction() as conn:
            assert await queries.hold(conn, (await versions(lab))[0], registry="hub", held=True, error="Stopped.") == 1

    lab.faults["hub"] = stopping = Stops(lab, hold)
    await bring(lab, args)
    found = await place(lab)
    assert (found.state, found.held, found.error, found.blobs_done) == ("failed", True, "Stopped.", 3)
    assert await lab.hub.stat("lab/net", "1.0.0") is None

    # Nobody starts it by accident: neither the job nor the periodic look.
    lab.faults["hub"] = idle = Faulty(lab.hub)
    await bring(lab, args)
    async with lab.database.reading() as conn:
        assert await queries.waiting(conn, before=lab.now + timedelta(days=9), limit=9) == []
    assert idle.calls == []

    async with lab.database.transaction() as conn:
        assert await queries.hold(conn, (await versions(lab))[0], registry=None, held=False, error=None) == 1
    await bring(lab, args)
    found = await place(lab)
    assert (found.state, found.held, found.blobs_done) == ("published", False, BLOBS)
    assert not set(idle.blobs) & set(stopping.blobs)


async def test_the_limits_of_the_way_home_are_kept(lab: Lab) -> None:
    args = await prepared(lab)
    await set_limits(lab, '{"parallel_blobs": 1, "bytes_per_second": 1000}')
    naps = Naps()
    await bring(lab, args, naps)
    # The last layer waits until those before it have passed, at 1000 bytes a second.
    assert sum(naps.taken) >= 40


@pytest.mark.parametrize(
    ("failures", "passing", "wait"),
    [
        (0, True, "5s"),
        (1, True, "10s"),
        (4, True, "80s"),
        (5, True, "70min"),
        (0, False, "20min"),
        (40, True, "130min"),
    ],
)
def test_a_place_that_fails_is_tried_ever_more_seldom(failures: int, passing: bool, wait: str) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    number = int(wait.rstrip("smin"))
    expected = timedelta(minutes=number) if wait.endswith("min") else timedelta(seconds=number)
    assert next_try(failures, passing=passing, now=now) - now == expected


async def test_a_database_that_is_away_for_a_moment_fails_no_item(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await lab.project("lab")
    await push_image(lab.depot, "lab/net", "1.0.0", layers=LAYERS)
    rule = await lab.rule("over", "depot", "mirror")
    real, away = sync_queries.item_sent, 3

    async def item_sent(*args: Any) -> None:
        nonlocal away
        if away:
            away -= 1
            raise Unavailable("The database is starting.")
        await real(*args)

    monkeypatch.setattr(sync_queries, "item_sent", item_sent)
    run, items = await carry_out(lab, rule)
    assert (run.state, outcome(items), away) == ("succeeded", {"1.0.0": ("copy", "done")}, 0)
    # What had arrived was written down once, when that was possible.
    assert items[0].blobs == BLOBS


async def versions(lab: Lab) -> list[int]:
    return [row[0] for row in await lab.rows("select id from versions order by id")]


def test_the_job_and_the_journal_agree_on_the_first_wait() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert next_try(0, passing=True, now=now) - now == timedelta(seconds=runner.FIRST_WAIT_SECONDS)
