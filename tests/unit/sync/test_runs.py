"""Carrying out rules: what arrives, what is reported, and what a new worker goes on from."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from berth.adapters.registries.contract import Registry
from berth.db.engine import Database
from berth.errors import Conflict, RemoteError, Unavailable
from berth.jobs import run_sync, schedule_sync
from berth.oci import digest as digests
from berth.sync import runs
from berth.sync.journal import queries
from berth.sync.journal.queries import ItemRow, Run
from berth.sync.publishing import queries as placing
from berth.sync.publishing import record
from berth.sync.rules import Rule
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import Faulty, Naps, content, push_image, push_version


async def start(lab: Lab, rule: Rule, *, kind: str = "run") -> int:
    async with lab.database.transaction() as conn:
        return await runs.start(conn, rule, kind=kind, by="admin")


async def ended(database: Database, run_id: int) -> tuple[Run, list[ItemRow]]:
    async with database.reading() as conn:
        run = await queries.run_by_id(conn, run_id)
        items = await queries.items_of(conn, run_id, limit=100)
    assert run is not None
    return run, items


async def carry_out(lab: Lab, rule: Rule, *, kind: str = "run") -> tuple[Run, list[ItemRow]]:
    run_id = await start(lab, rule, kind=kind)
    await runs.carry_out(lab.database, lab.places, run_id, now=lab.clock, sleep=Naps())
    return await ended(lab.database, run_id)


def outcome(items: list[ItemRow]) -> dict[str, tuple[str, str]]:
    return {item.tag: (item.action, item.state) for item in items}


async def test_a_push_brings_admitted_versions_and_a_second_one_nothing(lab: Lab) -> None:
    await lab.project("lab")
    await push_version(lab.depot, "lab/net", "1.0.0")
    await push_version(lab.depot, "lab/net", "1.1.0")
    rule = await lab.rule("out", "depot", "hub")
    run, items = await carry_out(lab, rule)
    assert (run.state, outcome(items)) == ("succeeded", {"1.0.0": ("copy", "done"), "1.1.0": ("copy", "done")})
    assert run.bytes_transferred == sum(item.bytes for item in items) > 0
    assert await content(lab.hub, "lab/net", "1.1.0") == await content(lab.depot, "lab/net", "1.1.0")
    again, items = await carry_out(lab, rule)
    assert (again.state, again.bytes_transferred) == ("succeeded", 0)
    assert {item.code for item in items} == {"same"}


class Guessing(Faulty):
    """A registry that is asked whether a tag still means what it meant, and tells what it means now."""

    def __init__(self, inner: Registry) -> None:
        super().__init__(inner)
        self.guesses: dict[str, str] = {}

    async def tag_digest(self, repository: str, tag: str, *, likely: str) -> str | None:
        self.guesses[tag] = likely
        found = await self.inner.stat(repository, tag)
        return None if found is None else found.digest


async def test_registries_are_asked_whether_what_the_last_run_found_is_still_so(lab: Lab) -> None:
    await lab.project("lab")
    old = await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"old"])
    hub, mirror = Guessing(lab.hub), Guessing(lab.mirror)
    lab.faults.update(hub=hub, mirror=mirror)
    rule = await lab.rule("over", "hub", "mirror")
    await carry_out(lab, rule)
    assert (hub.guesses, mirror.guesses) == ({}, {})
    await push_image(lab.hub, "lab/net", "1.1.0", layers=[b"more"])
    _, items = await carry_out(lab, rule)
    assert outcome(items) == {"1.0.0": ("skip", "done"), "1.1.0": ("copy", "done")}
    assert (hub.guesses, mirror.guesses) == ({"1.0.0": old}, {"1.0.0": old})
    # A guess is nothing more: a tag that has moved is found out.
    new = await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"new"])
    assert new != old
    _, items = await carry_out(lab, rule)
    assert outcome(items) == {"1.0.0": ("conflict", "conflict"), "1.1.0": ("skip", "done")}
    assert hub.guesses["1.0.0"] == old
    assert mirror.guesses["1.0.0"] == new


async def test_what_was_denied_stays_here(lab: Lab) -> None:
    await lab.project("lab")
    bad = await push_version(lab.depot, "lab/net", "1.0.0")
    await push_version(lab.depot, "lab/net", "1.1.0")
    await lab.decide("lab/net", bad, "revoked")
    _, items = await carry_out(lab, await lab.rule("out", "depot", "hub"))
    assert outcome(items) == {"1.0.0": ("skip", "done"), "1.1.0": ("copy", "done")}
    assert (await lab.hub.tags("lab/net")).items[0] == "1.1.0"


async def taken_back(lab: Lab, digest: str) -> None:
    """lab/net:1.0.0 was at the registry `mirror`, and was withdrawn from there."""
    async with lab.database.transaction() as conn:
        await record.published(
            conn,
            repository="lab/net",
            digest=digest,
            tag="1.0.0",
            registry="mirror",
            target_repository="lab/net",
            now=lab.now,
        )
        for placement, _ in await placing.placed_at(conn, registry="mirror", repository="lab/net", digest=digest):
            await placing.settle(conn, placement, state="withdrawn", now=lab.now, error="The gate denies it.")


async def test_what_the_gate_took_back_does_not_return_from_elsewhere(lab: Lab) -> None:
    await lab.project("lab")
    roots = {}
    for tag in ("1.0.0", "1.1.0"):
        roots[tag] = await push_image(lab.hub, "lab/net", tag, layers=[tag.encode()])
        assert await push_image(lab.depot, "lab/net", tag, layers=[tag.encode()]) == roots[tag]
    bad = roots["1.0.0"]
    await taken_back(lab, bad)
    await lab.decide("lab/net", bad, "revoked")
    rule = await lab.rule("over", "hub", "mirror")
    _, items = await carry_out(lab, rule)
    assert outcome(items) == {"1.0.0": ("skip", "done"), "1.1.0": ("copy", "done")}
    assert {item.tag: item.reason for item in items}["1.0.0"] == "The gate denies it, and took it back from mirror."
    # Its twin: let out again, it goes there.
    await lab.decide("lab/net", bad, "approved")
    _, items = await carry_out(lab, rule)
    assert outcome(items) == {"1.0.0": ("copy", "done"), "1.1.0": ("skip", "done")}


async def test_what_the_gate_took_back_and_denies_again_after_the_plan_does_not_return(lab: Lab) -> None:
    await lab.project("lab")
    bad = await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"bytes"])
    assert await push_image(lab.depot, "lab/net", "1.0.0", layers=[b"bytes"]) == bad
    await taken_back(lab, bad)
    await lab.decide("lab/net", bad, "approved")
    asked: list[str] = []

    class Deciding(Faulty):
        async def tags(self, repository: str, **more: Any) -> Any:
            asked.append(repository)
            if len(asked) == 2:  # the first time for the plan
                await lab.decide("lab/net", bad, "revoked")
            return await super().tags(repository, **more)

    lab.faults["hub"] = Deciding(lab.hub)
    _, items = await carry_out(lab, await lab.rule("over", "hub", "mirror", model="net"))
    assert outcome(items) == {"1.0.0": ("copy", "cancelled")}
    assert (await lab.mirror.tags("lab/net")).items == []


async def test_what_the_gate_denies_while_it_is_copied_elsewhere_gets_no_name(lab: Lab) -> None:
    await lab.project("lab")
    bad = await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"bytes"])
    assert await push_image(lab.depot, "lab/net", "1.0.0", layers=[b"bytes"]) == bad
    good = await push_image(lab.hub, "lab/net", "1.1.0", layers=[b"others"])
    await taken_back(lab, bad)
    await lab.decide("lab/net", bad, "approved")
    moving = digests.of_bytes(b"bytes")

    class Deciding(Faulty):
        async def push_blob(self, repository: str, digest: str, **more: Any) -> None:
            if digest == moving:
                await lab.decide("lab/net", bad, "revoked")
            await super().push_blob(repository, digest, **more)

    lab.faults["mirror"] = Deciding(lab.mirror)
    _, items = await carry_out(lab, await lab.rule("over", "hub", "mirror", model="net"))
    assert outcome(items) == {"1.0.0": ("copy", "cancelled"), "1.1.0": ("copy", "done")}
    assert {item.tag: item.error for item in items}["1.0.0"] == "The gate denies it, and took it back from mirror."
    assert (await lab.mirror.tags("lab/net")).items == ["1.1.0"]
    assert (await lab.mirror.stat("lab/net", "1.1.0")).digest == good  # type: ignore[union-attr]


async def test_what_is_denied_after_the_plan_is_not_copied(lab: Lab) -> None:
    await lab.project("lab")
    bad = await push_version(lab.depot, "lab/net", "1.0.0")
    revoked: list[bool] = []

    class Deciding(Faulty):
        async def stat(self, repository: str, reference: str) -> Any:
            return await super().stat(repository, reference)

        async def tags(self, repository: str, **more: Any) -> Any:
            if not revoked:
                revoked.append(True)
                await lab.decide("lab/net", bad, "revoked")
            return await super().tags(repository, **more)

    lab.faults["hub"] = Deciding(lab.hub)
    _, items = await carry_out(lab, await lab.rule("out", "depot", "hub", model="net"))
    assert outcome(items) == {"1.0.0": ("copy", "cancelled")}
    assert (await lab.hub.tags("lab/net")).items == []


async def test_a_pull_starts_without_evidence_and_is_refused_until_scanned(lab: Lab) -> None:
    await lab.project("lab", {"preset": "scanned"})
    root = await push_version(lab.hub, "lab/net", "1.0.0")
    run, _ = await carry_out(lab, await lab.rule("in", "hub", "depot"))
    assert run.state == "succeeded"
    assert await content(lab.depot, "lab/net", "1.0.0") == await content(lab.hub, "lab/net", "1.0.0")
    assert await lab.rows("select digest, pushed_by from versions") == [(root, "sync")]
    assert await lab.depot.admitted("lab/net", root) is False
    assert len(await lab.jobs("scan_vulnerabilities")) == 2
    assert len(await lab.jobs("scan_weights")) == 2


async def test_only_higher_brings_what_is_above_ours(lab: Lab) -> None:
    await lab.project("lab")
    for tag in ("1.0.0", "1.2.0", "2.0.0"):
        await push_image(lab.hub, "lab/net", tag, layers=[tag.encode()])
    await push_image(lab.depot, "lab/net", "1.1.0", layers=[b"ours"])
    _, items = await carry_out(lab, await lab.rule("in", "hub", "depot", only_higher=True))
    assert {tag: action for tag, (action, _) in outcome(items).items()} == {
        "1.0.0": "skip",
        "1.2.0": "copy",
        "2.0.0": "copy",
    }


async def test_after_a_failure_only_higher_does_not_pass_the_missing_version(lab: Lab) -> None:
    await lab.project("lab")
    lost = await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"one"])
    await push_image(lab.hub, "lab/net", "2.0.0", layers=[b"two"])
    rule = await lab.rule("in", "hub", "depot", only_higher=True)

    class Losing(Faulty):
        async def manifest(self, repository: str, digest: str) -> bytes:
            if digest == lost:
                raise RemoteError("It answers 500.")
            return await super().manifest(repository, digest)

    lab.faults["hub"] = Losing(lab.hub)
    run, items = await carry_out(lab, rule)
    assert (run.state, outcome(items)) == ("failed", {"1.0.0": ("copy", "failed"), "2.0.0": ("copy", "cancelled")})
    lab.faults.clear()
    run, items = await carry_out(lab, rule)
    assert (run.state, {item.state for item in items}) == ("succeeded", {"done"})


async def test_a_conflict_is_reported_and_nothing_overwritten(lab: Lab) -> None:
    await lab.project("lab")
    await push_image(lab.depot, "lab/net", "1.0.0", layers=[b"ours"])
    await push_image(lab.depot, "lab/net", "1.1.0", layers=[b"fine"])
    theirs = await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"theirs"])
    run, items = await carry_out(lab, await lab.rule("out", "depot", "hub"))
    assert outcome(items) == {"1.0.0": ("conflict", "conflict"), "1.1.0": ("copy", "done")}
    assert (run.state, run.counts) == ("succeeded", {"conflict": 1, "done": 1})
    found = await lab.hub.stat("lab/net", "1.0.0")
    assert found is not None
    assert found.digest == theirs


async def test_one_failing_version_leaves_the_others_alone(lab: Lab) -> None:
    await lab.project("lab")
    for tag in ("1.0.0", "1.1.0"):
        await push_image(lab.hub, "lab/net", tag, layers=[tag.encode()])
    lost = await lab.hub.stat("lab/net", "1.0.0")
    assert lost is not None

    class Losing(Faulty):
        async def manifest(self, repository: str, digest: str) -> bytes:
            if digest == lost.digest:
                raise RemoteError("It answers 500.")
            return await super().manifest(repository, digest)

    lab.faults["hub"] = Losing(lab.hub)
    run, items = await carry_out(lab, await lab.rule("in", "hub", "depot"))
    assert (run.state, outcome(items)) == ("failed", {"1.0.0": ("copy", "failed"), "1.1.0": ("copy", "done")})
    assert items[0].error == "It answers 500."


async def test_a_place_that_is_away_fails_the_run_with_its_words(lab: Lab) -> None:
    await lab.project("lab")
    lab.faults["hub"] = Faulty(lab.hub, fails=lambda _, __: Unavailable("The hub is away."))
    run, items = await carry_out(lab, await lab.rule("in", "hub", "depot", model="net"))
    assert (run.state, run.error, items) == ("failed", "The hub is away.", [])


async def test_a_plan_shows_the_drift_and_writes_nothing(lab: Lab) -> None:
    await lab.project("lab")
    await push_image(lab.depot, "lab/net", "1.0.0", layers=[b"ours"])
    await push_image(lab.depot, "lab/net", "1.1.0", layers=[b"new"])
    await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"theirs"])
    rule = await lab.rule("out", "depot", "hub")
    run, _ = await carry_out(lab, rule, kind="plan")
    assert run.state == "succeeded"
    async with lab.database.reading() as conn:
        drift = await queries.items_of(conn, run.id, limit=10, drift=True)
    assert [(item.tag, item.action, item.code) for item in drift] == [
        ("1.0.0", "conflict", "other_digest"),
        ("1.1.0", "copy", "missing"),
    ]
    assert await lab.hub.stat("lab/net", "1.1.0") is None


@pytest.mark.parametrize("delete", ["untag", "delete"])
async def test_a_mirror_removes_what_its_source_lost(lab: Lab, delete: str) -> None:
    for tag in ("1.0.0", "2.0.0"):
        await push_image(lab.hub, "lab/net", tag, layers=[tag.encode()])
    rule = await lab.rule("copy", "hub", "mirror", delete=delete)
    await carry_out(lab, rule)
    gone = await lab.hub.stat("lab/net", "1.0.0")
    assert gone is not None
    await lab.hub.delete_tag("lab/net", "1.0.0")
    run, items = await carry_out(lab, rule)
    assert run.state == "succeeded"
    assert outcome(items)["1.0.0"] == ("prune", "done")
    assert (await lab.mirror.tags("lab/net")).items == ["2.0.0"]
    assert (await lab.mirror.stat("lab/net", gone.digest) is None) is (delete == "delete")


async def test_deleting_spares_content_that_another_name_means(lab: Lab) -> None:
    digest = await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"same"])
    body = await lab.hub.manifest("lab/net", digest)
    media_type = "application/vnd.oci.image.manifest.v1+json"
    await lab.hub.push_manifest("lab/net", "2.0.0", media_type=media_type, body=body)
    rule = await lab.rule("copy", "hub", "mirror", delete="delete")
    await carry_out(lab, rule)
    await lab.hub.delete_tag("lab/net", "1.0.0")
    await carry_out(lab, rule)
    assert (await lab.mirror.tags("lab/net")).items == ["2.0.0"]
    assert await lab.mirror.stat("lab/net", digest) is not None


async def test_a_run_that_was_killed_goes_on(lab: Lab) -> None:
    await lab.project("lab")
    for tag in ("1.0.0", "1.1.0"):
        await push_version(lab.depot, "lab/net", tag, size=10)
    rule = await lab.rule("out", "depot", "hub", parallel_blobs=2)
    run_id = await start(lab, rule)
    dying = Faulty(lab.hub, fails=lambda _, name: KeyError("killed") if dying.calls.count("push_blob") > 8 else None)
    lab.faults["hub"] = dying
    with pytest.raises(KeyError):
        await runs.carry_out(lab.database, lab.places, run_id, now=lab.clock, sleep=Naps())
    stopped, _ = await ended(lab.database, run_id)
    assert (stopped.state, stopped.planned) == ("running", True)
    again = Faulty(lab.hub)
    lab.faults["hub"] = again
    await run_sync.run(lab.context, run_id=run_id)
    run, _ = await ended(lab.database, run_id)
    assert (run.state, run.attempts) == ("succeeded", 1), "attempts that moved something do not count"
    assert len(dying.blobs) + len(again.blobs) <= 24 + 2
    for tag in ("1.0.0", "1.1.0"):
        assert await content(lab.hub, "lab/net", tag) == await content(lab.depot, "lab/net", tag)


async def test_a_run_that_has_ended_is_not_run_again(lab: Lab) -> None:
    await lab.project("lab")
    run, _ = await carry_out(lab, await lab.rule("out", "depot", "hub"))
    await run_sync.run(lab.context, run_id=run.id)
    after, _ = await ended(lab.database, run.id)
    assert after == run
    await run_sync.run(lab.context, run_id=999)


async def test_a_run_is_cancelled_before_and_while_it_works(lab: Lab) -> None:
    await lab.project("lab")
    await push_version(lab.depot, "lab/net", "1.0.0")
    rule = await lab.rule("out", "depot", "hub", parallel_blobs=1)
    run_id = await start(lab, rule)
    async with lab.database.transaction() as conn:
        await queries.request_cancel(conn, run_id)
    await run_sync.run(lab.context, run_id=run_id)
    run, items = await ended(lab.database, run_id)
    assert (run.state, items) == ("cancelled", [])


async def test_two_runs_of_one_rule_do_not_run_at_once(lab: Lab) -> None:
    await lab.project("lab")
    rule = await lab.rule("out", "depot", "hub")
    await start(lab, rule)
    with pytest.raises(Conflict):
        await start(lab, rule)
    await start(lab, rule, kind="plan")


async def test_outside_its_hours_a_rule_moves_nothing(lab: Lab) -> None:
    await lab.project("lab")
    await push_image(lab.depot, "lab/net", "1.0.0", layers=[b"layer"])
    rule = await lab.rule("out", "depot", "hub", window="22:00-06:00")
    _, items = await carry_out(lab, rule)
    assert [(item.action, item.code) for item in items] == [("skip", "outside_window")]
    lab.forward(hours=11)
    _, items = await carry_out(lab, rule)
    assert outcome(items) == {"1.0.0": ("copy", "done")}


async def test_versions_are_promoted_from_one_project_to_another(lab: Lab) -> None:
    await lab.project("lab")
    await lab.project("prod", {"preset": "scanned"})
    await push_version(lab.depot, "lab/net", "1.0.0")
    run, _ = await carry_out(lab, await lab.rule("up", "depot", "depot", target_project="prod", direction="push"))
    assert (run.state, run.bytes_transferred) == ("succeeded", 0)
    assert await content(lab.depot, "prod/net", "1.0.0") == await content(lab.depot, "lab/net", "1.0.0")


async def test_a_version_deleted_here_does_not_come_back(lab: Lab) -> None:
    await lab.project("lab")
    await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"layer"])
    rule = await lab.rule("in", "hub", "depot")
    await carry_out(lab, rule)
    await lab.depot.delete_tag("lab/net", "1.0.0")
    _, items = await carry_out(lab, rule)
    assert [(item.action, item.code) for item in items] == [("skip", "deleted_there")]


# -- by the clock


async def test_a_due_rule_is_started_once(lab: Lab) -> None:
    await lab.project("lab")
    await lab.rule("nightly", "depot", "hub", schedule="0 3 * * *")
    await schedule_sync.run(lab.context)
    assert await lab.jobs("run_sync") == []
    lab.forward(hours=16)
    await schedule_sync.run(lab.context)
    await schedule_sync.run(lab.context)
    assert len(await lab.jobs("run_sync")) == 1
    assert await lab.rows("select started_by, state from sync_runs") == [("schedule", "queued")]
    due = await lab.rows("select next_run_at from sync_rules")
    assert due[0][0].isoformat() == "2026-06-17T03:00:00+00:00"


async def test_a_lost_run_is_taken_up(lab: Lab) -> None:
    await lab.project("lab")
    run_id = await start(lab, await lab.rule("out", "depot", "hub"))
    async with lab.database.transaction() as conn:
        await queries.begin_run(conn, run_id, now=lab.now)
    await lab.jobs("run_sync")
    await schedule_sync.run(lab.context)
    assert await lab.jobs("run_sync") == []
    lab.forward(minutes=3)
    await schedule_sync.run(lab.context)
    assert await lab.jobs("run_sync") == [{"run_id": run_id}]


class Slow(Faulty):
    """A registry where everything takes a moment; remembers how much was under way at once."""

    def __init__(self, inner: Registry) -> None:
        super().__init__(inner)
        self.under_way = self.most = 0

    async def push_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.02)
        self.under_way -= 1
        return await super().push_manifest(repository, reference, media_type=media_type, body=body)

    async def push_blob(self, repository: str, digest: str, **more: Any) -> None:
        await asyncio.sleep(0.02)
        await super().push_blob(repository, digest, **more)


async def test_versions_of_a_model_go_side_by_side_and_their_common_blobs_once(lab: Lab) -> None:
    await lab.project("lab")
    for number in range(8):
        for model in ("net", "other"):
            await push_image(lab.hub, f"lab/{model}", f"1.{number}.0", layers=[b"base weights", f"{number}".encode()])
    mirror = lab.faults["mirror"] = Slow(lab.mirror)
    run, items = await carry_out(lab, await lab.rule("over", "hub", "mirror"))
    assert (run.state, {item.state for item in items}) == ("succeeded", {"done"})
    # Sixteen configs, eight layers that two models share, and one that all share: each is sent once, or mounted.
    assert len(mirror.blobs) == len(set(mirror.blobs)) == 25
    assert mirror.most > 1


async def test_where_only_higher_ones_may_follow_versions_go_one_by_one(lab: Lab) -> None:
    await lab.project("lab")
    for number in range(6):
        await push_image(lab.hub, "lab/net", f"1.{number}.0", layers=[f"{number}".encode()])
    mirror = lab.faults["mirror"] = Slow(lab.mirror)
    await carry_out(lab, await lab.rule("over", "hub", "mirror", only_higher=True))
    assert (mirror.most, mirror.pushed) == (1, [f"1.{number}.0" for number in range(6)])
