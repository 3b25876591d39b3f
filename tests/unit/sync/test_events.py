"""What follows from events at other registries: rules that start, copies that come back, pulls that count."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from berth.adapters.registries.contract import RemoteEvent
from berth.db import registries as stored
from berth.errors import Unavailable
from berth.jobs import publish_version, run_sync, schedule_sync, take_registry_events
from berth.sync.events import queries
from berth.sync.events.arrive import arrive
from berth.sync.rules import Rule
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import Faulty, content, push_image, push_version
from tests.unit.sync.test_publishing import error, placements, work


async def registry(lab: Lab, name: str = "hub") -> int:
    async with lab.database.transaction() as conn:
        row = await stored.registry_named(conn, name)
    assert row is not None
    return row.id


async def tell(lab: Lab, registry_id: int, action: str, **said: Any) -> None:
    event = RemoteEvent(
        action,
        said.get("repository", "lab/net"),
        said.get("digest"),
        said.get("tag"),
        said.get("at", lab.now.timestamp()),
        said.get("id"),
    )
    async with lab.database.transaction() as conn:
        await arrive(conn, registry_id, [event], now=lab.now)


async def by_event(lab: Lab, name: str = "in", **terms: Any) -> Rule:
    rule = await lab.rule(name, "hub", "depot", **terms)
    async with lab.database.transaction() as conn:
        await conn.execute(text("update sync_rules set on_event = true where name = :n"), {"n": name})
    return rule


async def outcomes(lab: Lab) -> list[tuple[str, str | None]]:
    return [(row[0], row[1]) for row in await lab.rows("select state, outcome from registry_events order by id")]


async def test_a_push_there_starts_the_rule_and_the_version_is_here(lab: Lab) -> None:
    hub = await registry(lab)
    await lab.project("lab")
    await by_event(lab)
    root = await push_version(lab.hub, "lab/net", "1.0.0")
    await tell(lab, hub, "pushed", digest=root, tag="1.0.0")
    assert await work(lab, take_registry_events) == 1
    assert await outcomes(lab) == [("done", "Started run 1 of in.")]
    assert await work(lab, run_sync) == 1
    assert await content(lab.depot, "lab/net", "1.0.0") == await content(lab.hub, "lab/net", "1.0.0")
    assert (await lab.rows("select started_by, state from sync_runs"))[0] == ("event", "succeeded")


async def test_only_rules_of_that_registry_and_project_that_are_on_start(lab: Lab) -> None:
    hub = await registry(lab)
    await lab.project("lab")
    await lab.rule("asked", "hub", "depot")
    await by_event(lab, "other", project="others", target_project="lab")
    await by_event(lab, "off")
    async with lab.database.transaction() as conn:
        await conn.execute(text("update sync_rules set enabled = false where name = 'off'"))
    await tell(lab, hub, "pushed", tag="1.0.0")
    await work(lab, take_registry_events)
    assert await outcomes(lab) == [("done", "No rule waits for it.")]
    assert await lab.rows("select 1 from sync_runs") == []


async def test_many_pushes_start_one_run_and_one_that_has_begun_is_followed_by_another(lab: Lab) -> None:
    hub = await registry(lab)
    await lab.project("lab")
    await by_event(lab)
    for tag in ("1.0.0", "1.1.0"):
        await tell(lab, hub, "pushed", tag=tag)
    await work(lab, take_registry_events)
    assert await outcomes(lab) == [("done", "Started run 1 of in.")] * 2
    async with lab.database.transaction() as conn:
        await conn.execute(text("update sync_runs set state = 'running'"))
    await tell(lab, hub, "pushed", tag="1.2.0")
    await work(lab, take_registry_events)
    # The run that has begun may have looked at the registry before.
    assert (await outcomes(lab))[2] == ("new", None)
    later = await lab.rows(
        "select scheduled_at > now() from procrastinate_jobs "
        "where status = 'todo' and task_name = 'take_registry_events'"
    )
    assert [row[0] for row in later] == [True]
    async with lab.database.transaction() as conn:
        await conn.execute(text("update sync_runs set state = 'succeeded'"))
    await work(lab, take_registry_events)
    assert (await outcomes(lab))[2][0] == "done"
    assert await lab.rows("select state from sync_runs order by id") == [("succeeded",), ("queued",)]


async def test_what_was_removed_at_home_is_published_again(lab: Lab) -> None:
    hub = await registry(lab)
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    await lab.hub.delete_manifest("lab/net", root)
    await tell(lab, hub, "deleted", digest=root)
    await work(lab, take_registry_events)
    assert await placements(lab) == [("1.0.0", "hub", "pending")]
    assert "lab/net:1.0.0 was removed there" in await error(lab)
    assert await work(lab, publish_version) == 1
    assert await placements(lab) == [("1.0.0", "hub", "published")]
    assert await content(lab.hub, "lab/net", "1.0.0") == await content(lab.depot, "lab/net", "1.0.0")


async def test_what_no_rule_wants_there_is_written_down_and_left(lab: Lab) -> None:
    hub = await registry(lab)
    await lab.project("lab", home="hub")
    await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    async with lab.database.transaction() as conn:
        await conn.execute(text("update projects set home = 'depot'"))
    await lab.hub.delete_tag("lab/net", "1.0.0")
    await tell(lab, hub, "deleted", tag="1.0.0")
    await work(lab, take_registry_events)
    assert await placements(lab) == [("1.0.0", "hub", "withdrawn")]
    assert "no rule brings it back" in await error(lab)
    assert await lab.jobs("publish_version") == []


async def test_a_late_event_about_what_is_there_again_changes_nothing(lab: Lab) -> None:
    hub = await registry(lab)
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    await tell(lab, hub, "deleted", digest=root)
    await tell(lab, hub, "deleted", repository="lab/strange", digest=root)
    await work(lab, take_registry_events)
    assert await outcomes(lab) == [("done", "It is still there."), ("done", "Nothing of ours was published there.")]
    assert await placements(lab) == [("1.0.0", "hub", "published")]


async def test_a_removal_of_what_is_denied_is_a_withdrawal(lab: Lab) -> None:
    hub = await registry(lab)
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    await lab.decide("lab/net", root, "revoked")
    await lab.jobs("withdraw_version")
    await lab.hub.delete_manifest("lab/net", root)
    await tell(lab, hub, "deleted", digest=root)
    await work(lab, take_registry_events)
    assert await placements(lab) == [("1.0.0", "hub", "withdrawn")]
    assert "denied here" in await error(lab)
    assert await lab.jobs("publish_version") == []


async def test_another_version_under_its_name_is_reported_and_left(lab: Lab) -> None:
    hub = await registry(lab)
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    await lab.hub.delete_tag("lab/net", "1.0.0")
    theirs = await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"theirs"])
    await tell(lab, hub, "deleted", digest=root)
    await work(lab, take_registry_events)
    await work(lab, publish_version)
    assert await placements(lab) == [("1.0.0", "hub", "failed")]
    found = await lab.hub.stat("lab/net", "1.0.0")
    assert found is not None
    assert found.digest == theirs


async def test_while_the_registry_is_away_the_event_waits_and_others_go_on(lab: Lab) -> None:
    hub = await registry(lab)
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    await tell(lab, hub, "deleted", digest=root)
    await tell(lab, hub, "scanned", digest=root)
    lab.faults["hub"] = Faulty(lab.hub, fails=lambda _, __: Unavailable("The hub is away."))
    (args,) = await lab.jobs("take_registry_events")
    with pytest.raises(Unavailable):
        await take_registry_events.run(lab.context, **args)
    assert await outcomes(lab) == [("new", None), ("done", "Noted.")]
    lab.faults.clear()
    lab.now += timedelta(minutes=30)
    await schedule_sync.run(lab.context)
    assert await work(lab, take_registry_events) == 1
    assert (await outcomes(lab))[0] == ("done", "It is still there.")


async def test_pulls_are_counted_once_each_with_the_latest_time(lab: Lab) -> None:
    hub = await registry(lab)
    digest = "sha256:" + "a" * 64
    for at in (200.0, 100.0, 100.0):
        await tell(lab, hub, "pulled", digest=digest, at=at)
    await work(lab, take_registry_events)
    await take_registry_events.run(lab.context, registry_id=hub)
    async with lab.database.reading() as conn:
        found = await queries.pulls_of(conn, hub, "lab/net", digest)
    assert found is not None
    assert (found.pulls, found.last_at.timestamp()) == (2, 200.0)


async def test_events_without_anything_to_tell_them_apart_all_count(lab: Lab) -> None:
    """Quay says neither digest nor time: the second push of a tag says what the first one said."""
    hub = await registry(lab)
    for _ in range(2):
        await tell(lab, hub, "pushed", tag="latest", at=None)
    assert len(await outcomes(lab)) == 2


async def test_events_of_a_registry_that_was_forgotten_go_with_it(lab: Lab) -> None:
    hub = await registry(lab)
    await tell(lab, hub, "pushed", tag="1.0.0")
    async with lab.database.transaction() as conn:
        assert await stored.delete_registry(conn, "hub")
    await work(lab, take_registry_events)
    assert await outcomes(lab) == []
