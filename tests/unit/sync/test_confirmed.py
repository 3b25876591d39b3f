"""Evidence that a target was seen to hold is believed for a day, by runs; everything that matters is asked anew."""

from __future__ import annotations

from sqlalchemy import text

from berth.sync.rules import Rule
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import Faulty, content, push_image, push_version
from tests.unit.sync.test_runs import carry_out, outcome


async def in_step(lab: Lab) -> tuple[Rule, Faulty, str]:
    """A rule whose target holds a version with two pieces of evidence, as a run has seen; the version's digest."""
    await lab.project("lab")
    root = await push_version(lab.depot, "lab/net", "1.0.0")
    rule = await lab.rule("out", "depot", "hub")
    await carry_out(lab, rule)
    _, items = await carry_out(lab, rule)
    assert {item.code for item in items} == {"same"}
    hub = lab.faults["hub"] = Faulty(lab.hub)
    return rule, hub, root


async def lose_evidence(lab: Lab, root: str) -> None:
    assert await lab.hub.delete_tag("lab/net", root.replace(":", "-") + ".sig")
    (entry,) = await lab.hub.referrers("lab/net", root)
    assert await lab.hub.delete_manifest("lab/net", entry.digest)


async def test_a_run_in_step_asks_for_the_tag_and_not_for_its_evidence(lab: Lab) -> None:
    rule, hub, _ = await in_step(lab)
    _, items = await carry_out(lab, rule)
    assert {item.code for item in items} == {"same"}
    assert hub.calls.count("stat") == 1


async def test_after_a_day_evidence_is_asked_for_again_and_brought_where_it_went(lab: Lab) -> None:
    rule, hub, root = await in_step(lab)
    await lose_evidence(lab, root)
    lab.forward(hours=23)
    _, items = await carry_out(lab, rule)
    assert outcome(items) == {"1.0.0": ("skip", "done")}
    lab.forward(hours=2)
    _, items = await carry_out(lab, rule)
    assert outcome(items) == {"1.0.0": ("copy", "done")}
    assert await content(lab.hub, "lab/net", "1.0.0") == await content(lab.depot, "lab/net", "1.0.0")
    assert hub.calls.count("stat") > 2


async def test_being_believed_for_long_does_not_make_it_fresh(lab: Lab) -> None:
    rule, hub, _ = await in_step(lab)
    for _ in range(3):
        lab.forward(hours=7)
        await carry_out(lab, rule)
    assert hub.calls.count("stat") == 3
    lab.forward(hours=7)
    await carry_out(lab, rule)
    assert hub.calls.count("stat") == 6


async def test_a_plan_says_what_is_so_now(lab: Lab) -> None:
    rule, _, root = await in_step(lab)
    await lose_evidence(lab, root)
    _, items = await carry_out(lab, rule, kind="plan")
    assert [(item.action, item.code) for item in items] == [("copy", "evidence_missing")]


async def test_new_evidence_goes_at_once(lab: Lab) -> None:
    rule, _, root = await in_step(lab)
    await push_image(lab.depot, "lab/net", root.replace(":", "-") + ".att", layers=[b"attestation"])
    _, items = await carry_out(lab, rule)
    assert outcome(items) == {"1.0.0": ("copy", "done")}
    assert await content(lab.hub, "lab/net", "1.0.0") == await content(lab.depot, "lab/net", "1.0.0")
    assert await lab.hub.stat("lab/net", root.replace(":", "-") + ".att") is not None


async def test_a_version_that_went_is_brought_with_all_its_evidence(lab: Lab) -> None:
    rule, _, root = await in_step(lab)
    await lose_evidence(lab, root)
    assert await lab.hub.delete_manifest("lab/net", root)
    _, items = await carry_out(lab, rule)
    assert outcome(items) == {"1.0.0": ("copy", "done")}
    assert await content(lab.hub, "lab/net", "1.0.0") == await content(lab.depot, "lab/net", "1.0.0")


async def test_what_is_too_old_to_be_believed_is_not_kept(lab: Lab) -> None:
    rule, _, _ = await in_step(lab)
    assert len(await lab.rows("select 1 from sync_confirmed")) == 1
    async with lab.database.transaction() as conn:
        await conn.execute(text("update sync_confirmed set digest = 'sha256:gone'"))
    lab.forward(days=2)
    await carry_out(lab, rule)
    assert [row.digest for row in await lab.rows("select digest from sync_confirmed")] != ["sha256:gone"]
