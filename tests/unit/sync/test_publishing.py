"""Where admitted versions go, and how denied ones come back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from berth.adapters.registries.contract import Capabilities, Registry
from berth.errors import Unavailable, Unsupported
from berth.jobs import publish_version, schedule_sync, withdraw_version
from berth.sync import runs
from berth.sync.depot import DepotRegistry
from tests.unit.db.test_queue import fetch
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import Faulty, Naps, content, push_image, push_version


async def placements(lab: Lab) -> list[tuple[str, str, str]]:
    rows = await lab.rows(
        "select v.version, l.registry, l.state from placements l join versions v on v.id = l.version_id order by 1, 2"
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def error(lab: Lab) -> str:
    return str((await lab.rows("select error from placements"))[0][0])


async def work(lab: Lab, module: Any) -> int:
    """Run the waiting jobs of one kind; how many there were."""
    waiting = await lab.jobs(module.NAME)
    for args in waiting:
        await module.run(lab.context, **args)
    return len(waiting)


async def test_what_is_admitted_goes_home_with_its_evidence(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    await push_version(lab.depot, "lab/net", "1.0.0")
    assert await work(lab, publish_version) == 1
    assert await placements(lab) == [("1.0.0", "hub", "published")]
    assert await content(lab.hub, "lab/net", "1.0.0") == await content(lab.depot, "lab/net", "1.0.0")


async def test_without_another_home_nothing_is_put_on_the_queue(lab: Lab) -> None:
    await lab.project("lab")
    await push_version(lab.depot, "lab/net", "1.0.0")
    assert await lab.jobs("publish_version") == []


async def test_what_is_not_admitted_stays_in_quarantine(lab: Lab) -> None:
    await lab.project("lab", {"preset": "scanned"}, home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    assert await lab.jobs("publish_version") == []
    row = (await lab.rows("select repository_id from versions"))[0]
    await publish_version.run(lab.context, repository_id=row[0], root=root)
    assert await placements(lab) == []
    assert (await lab.hub.tags("lab/net")).items == []


async def test_evidence_that_comes_later_is_published_too(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    await lab.decide("lab/net", root, "approved")
    await push_image(
        lab.depot,
        "lab/net",
        None,
        layers=[b"a later report"],
        artifactType="text/later",
        subject={"mediaType": "application/vnd.oci.image.index.v1+json", "digest": root, "size": 1},
    )
    assert await work(lab, publish_version) == 1
    assert await content(lab.hub, "lab/net", "1.0.0") == await content(lab.depot, "lab/net", "1.0.0")


async def test_what_new_evidence_asks_for_waits_for_the_copy_that_is_under_way(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    first = await fetch(lab.database, "publish")
    assert first is not None
    await lab.decide("lab/net", root, "approved")
    assert await fetch(lab.database, "publish") is None
    async with lab.database.transaction() as conn:
        await conn.execute(text("update procrastinate_jobs set status = 'succeeded' where id = :id"), {"id": first})
    assert await fetch(lab.database, "publish") is not None


async def test_replicas_get_what_their_rule_wants(lab: Lab) -> None:
    await lab.project("lab")
    await lab.rule("copy", "depot", "mirror", on_admission=True, range="^1", target_project="prod", direction="push")
    await push_version(lab.depot, "lab/net", "1.0.0")
    await push_version(lab.depot, "lab/net", "2.0.0")
    await work(lab, publish_version)
    assert await placements(lab) == [("1.0.0", "mirror", "published")]
    assert (await lab.mirror.tags("prod/net")).items[0] == "1.0.0"


async def test_a_home_that_is_away_is_tried_again(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    await push_version(lab.depot, "lab/net", "1.0.0")
    (args,) = await lab.jobs("publish_version")
    lab.faults["hub"] = Faulty(lab.hub, fails=lambda _, __: Unavailable("The hub is away."))
    with pytest.raises(Unavailable):
        await _publish(lab, args)
    assert await placements(lab) == [("1.0.0", "hub", "failed")]
    assert await error(lab) == "The hub is away."
    lab.faults.clear()
    lab.now = datetime.now(UTC)
    lab.forward(minutes=30)
    await schedule_sync.run(lab.context)
    assert await work(lab, publish_version) == 1
    assert await placements(lab) == [("1.0.0", "hub", "published")]


async def test_other_bytes_at_home_are_reported_and_kept(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    theirs = await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"theirs"])
    await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    assert await placements(lab) == [("1.0.0", "hub", "failed")]
    assert "left alone" in await error(lab)
    found = await lab.hub.stat("lab/net", "1.0.0")
    assert found is not None
    assert found.digest == theirs


@pytest.mark.parametrize(
    ("on_deny", "tagged", "held", "state"),
    [
        ("untag", False, True, "withdrawn"),
        ("delete", False, False, "withdrawn"),
        ("mark", True, True, "exposed"),
        ("keep", True, True, "exposed"),
    ],
)
async def test_what_turns_to_deny_is_withdrawn_as_the_policy_says(
    lab: Lab, on_deny: str, tagged: bool, held: bool, state: str
) -> None:
    await lab.project("lab", {"preset": "open", "on_deny": on_deny}, home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    await lab.decide("lab/net", root, "revoked")
    assert await work(lab, withdraw_version) == 1
    assert await placements(lab) == [("1.0.0", "hub", state)]
    assert (await lab.hub.stat("lab/net", "1.0.0") is not None) is tagged
    assert (await lab.hub.stat("lab/net", root) is not None) is held


class LastTagTakesContent(Faulty):
    """As ECR does: what has no name left is deleted."""

    def __init__(self, registry: Registry, **more: Any) -> None:
        super().__init__(registry, capabilities=Capabilities(last_tag_takes_content=True), **more)

    async def delete_tag(self, repository: str, tag: str) -> bool:
        found = await self.stat(repository, tag)
        gone = await super().delete_tag(repository, tag)
        stats = [await self.stat(repository, other) for other in (await self.tags(repository)).items]
        if found is not None and found.digest not in {stat.digest for stat in stats if stat is not None}:
            await super().delete_manifest(repository, found.digest)
        return gone


@pytest.mark.parametrize(
    ("on_deny", "tags", "held", "note"),
    [
        ("untag", ["withdrawn-1.0.0"], True, "kept there as withdrawn-1.0.0"),
        ("delete", [], False, None),
        ("keep", ["1.0.0"], True, "leaves the copy"),
    ],
)
async def test_where_the_last_tag_takes_the_content_along_the_policy_still_means_what_it_says(
    lab: Lab, on_deny: str, tags: list[str], held: bool, note: str | None
) -> None:
    await lab.project("lab", {"preset": "open", "on_deny": on_deny}, home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    lab.faults["hub"] = LastTagTakesContent(lab.hub)
    await lab.decide("lab/net", root, "revoked")
    await work(lab, withdraw_version)
    left = [tag for tag in (await lab.hub.tags("lab/net")).items if not tag.startswith("sha256-")]
    assert left == tags
    assert (await lab.hub.stat("lab/net", root) is not None) is held
    assert (note in await error(lab)) if note else (await error(lab) == "None")
    # What is admitted again has its own name again; the holding one is no version's, and stays.
    await lab.decide("lab/net", root, "approved")
    await work(lab, publish_version)
    found = await lab.hub.stat("lab/net", "1.0.0")
    assert found is not None
    assert found.digest == root


async def test_what_is_admitted_again_comes_back(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    await lab.decide("lab/net", root, "revoked")
    await work(lab, withdraw_version)
    await lab.decide("lab/net", root, "approved")
    assert await work(lab, publish_version) == 1
    assert await placements(lab) == [("1.0.0", "hub", "published")]
    assert await lab.hub.stat("lab/net", "1.0.0") is not None


async def test_what_cannot_be_removed_is_exposed(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    await lab.decide("lab/net", root, "revoked")
    lab.faults["hub"] = Faulty(
        lab.hub,
        fails=lambda _, name: Unsupported("Tags cannot be removed there.") if name == "delete_tag" else None,
        capabilities=Capabilities(tag_delete=False),
    )
    await work(lab, withdraw_version)
    assert await placements(lab) == [("1.0.0", "hub", "exposed")]
    assert "cannot be removed there" in await error(lab)


async def test_a_registry_that_only_says_it_removed_is_not_believed(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    await lab.decide("lab/net", root, "revoked")

    class Deaf(Faulty):
        async def delete_tag(self, repository: str, tag: str) -> bool:
            return True

    lab.faults["hub"] = Deaf(lab.hub)
    (args,) = await lab.jobs("withdraw_version")
    with pytest.raises(Exception, match="still shows"):
        await withdraw_version.run(lab.context, **args)
    assert await placements(lab) == [("1.0.0", "hub", "exposed")]
    lab.faults.clear()
    lab.now = datetime.now(UTC)
    lab.forward(minutes=30)
    await schedule_sync.run(lab.context)
    assert await work(lab, withdraw_version) == 1
    assert await placements(lab) == [("1.0.0", "hub", "withdrawn")]


async def test_a_name_that_means_something_else_there_is_left_alone(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    await lab.hub.delete_tag("lab/net", "1.0.0")
    theirs = await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"theirs"])
    await lab.decide("lab/net", root, "revoked")
    await work(lab, withdraw_version)
    found = await lab.hub.stat("lab/net", "1.0.0")
    assert found is not None
    assert found.digest == theirs


async def test_a_verdict_that_turns_while_bytes_move_is_followed(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")

    class Turning(Faulty):
        async def push_manifest(self, repository: str, reference: str, **more: Any) -> str:
            found = await super().push_manifest(repository, reference, **more)
            if reference == "1.0.0":
                await lab.decide("lab/net", root, "revoked")
                await lab.jobs("withdraw_version")  # it ran already, before there was anything to withdraw
            return found

    lab.faults["hub"] = Turning(lab.hub)
    await work(lab, publish_version)
    assert await work(lab, withdraw_version) == 1
    assert await placements(lab) == [("1.0.0", "hub", "withdrawn")]
    assert await lab.hub.stat("lab/net", "1.0.0") is None


async def test_what_a_rule_brought_out_is_withdrawn_too(lab: Lab) -> None:
    await lab.project("lab")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    rule = await lab.rule("out", "depot", "mirror")
    async with lab.database.transaction() as conn:
        run_id = await runs.start(conn, rule, kind="run", by="admin")
    await runs.carry_out(lab.database, lab.places, run_id, now=lab.clock, sleep=Naps())
    assert await placements(lab) == [("1.0.0", "mirror", "published")]
    await lab.decide("lab/net", root, "revoked")
    assert await work(lab, withdraw_version) == 1
    assert await lab.mirror.stat("lab/net", "1.0.0") is None


async def test_a_deleted_version_leaves_its_home(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    await lab.depot.delete_tag("lab/net", "1.0.0")
    await schedule_sync.run(lab.context)
    assert await work(lab, withdraw_version) == 1
    assert await placements(lab) == [("1.0.0", "hub", "withdrawn")]


async def test_a_verdict_that_time_turns_is_noticed_without_a_reader(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    async with lab.database.transaction() as conn:
        # As if decided long ago: the policy is another one by now, and it denies.
        await conn.execute(text("update projects set policy = '{\"preset\": \"strict\"}', policy_hash = 'new'"))
    await schedule_sync.run(lab.context)
    assert await work(lab, withdraw_version) == 1
    assert await lab.hub.stat("lab/net", root) is not None
    assert await placements(lab) == [("1.0.0", "hub", "withdrawn")]


async def test_versions_from_before_the_home_was_set_follow(lab: Lab) -> None:
    await lab.project("lab")
    await push_version(lab.depot, "lab/net", "1.0.0")
    async with lab.database.transaction() as conn:
        await conn.execute(text("update projects set home = 'hub'"))
    await schedule_sync.run(lab.context)
    assert await work(lab, publish_version) == 1
    assert await placements(lab) == [("1.0.0", "hub", "published")]


async def _publish(lab: Lab, args: dict[str, Any]) -> None:
    from berth.sync.publishing.publish import publish

    await publish(lab.database, lab.places, now=lab.clock, sleep=Naps(), **args)


async def test_an_open_project_is_published_only_to_registries_marked_for_it(lab: Lab) -> None:
    await lab.mark("mirror", takes_open=False)
    await lab.project("lab", home="hub")
    await lab.rule("copy", "depot", "mirror", on_admission=True, direction="push")
    await push_version(lab.depot, "lab/net", "1.0.0")
    await work(lab, publish_version)
    assert await placements(lab) == [("1.0.0", "hub", "published"), ("1.0.0", "mirror", "pending")]
    assert (await lab.mirror.tags("lab/net")).items == []
    assert "takes no versions of open projects" in str(
        (await lab.rows("select error from placements where registry = 'mirror'"))[0][0]
    )
    await lab.mark("mirror", takes_open=True)
    lab.forward(minutes=30)
    await schedule_sync.run(lab.context)
    await work(lab, publish_version)
    assert ("1.0.0", "mirror", "published") in await placements(lab)


async def test_what_a_gate_was_asked_about_needs_no_mark(lab: Lab) -> None:
    await lab.mark("hub", takes_open=False)
    scanless = {"required_signatures": 0, "require_vulnerability_scan": False, "require_weight_scan": False}
    await lab.project("lab", {"preset": "strict", **scanless}, home="hub")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    await lab.decide("lab/net", root, "approved")
    await work(lab, publish_version)
    assert await placements(lab) == [("1.0.0", "hub", "published")]


async def test_a_run_leaves_versions_of_open_projects_where_the_target_has_no_mark(lab: Lab) -> None:
    await lab.project("lab")
    await push_version(lab.depot, "lab/net", "1.0.0")
    rule = await lab.rule("copy", "depot", "mirror", direction="push")
    await lab.mark("mirror", takes_open=False)

    async def carried_out() -> list[tuple[str, str]]:
        async with lab.database.transaction() as conn:
            run = await runs.start(conn, rule, kind="run", by="admin")
        await runs.carry_out(lab.database, lab.places, run, now=lab.clock)
        return [(r[0], r[1]) for r in await lab.rows(f"select action, code from sync_items where run_id = {run}")]

    assert await carried_out() == [("skip", "held_back")]
    assert (await lab.mirror.tags("lab/net")).items == []
    await lab.mark("mirror", takes_open=True)
    assert await carried_out() == [("copy", "missing")]
    assert "1.0.0" in (await lab.mirror.tags("lab/net")).items


async def test_a_mark_that_goes_after_the_plan_was_made_still_holds_versions_back(lab: Lab) -> None:
    await lab.project("lab")
    await push_version(lab.depot, "lab/net", "1.0.0")
    rule = await lab.rule("copy", "depot", "mirror", direction="push")
    async with lab.database.transaction() as conn:
        run = await runs.start(conn, rule, kind="run", by="admin")

    class Unmarking:
        """Takes the mark away when an item asks the depot, after the plan was made, whether it may leave."""

        async def open(self, name: str) -> Any:
            opened = await lab.places.open(name)
            if isinstance(opened, DepotRegistry):
                asked = opened.admitted

                async def admitted(*args: Any) -> Any:
                    await lab.mark("mirror", takes_open=False)
                    return await asked(*args)

                opened.admitted = admitted  # type: ignore[method-assign]
            return opened

    await runs.carry_out(lab.database, Unmarking(), run, now=lab.clock)
    assert (await lab.mirror.tags("lab/net")).items == []
    assert [row[0] for row in await lab.rows("select state from sync_items")] == ["cancelled"]
