"""The drift report: what differs per model and registry, since when, and what takes it away."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from berth.errors import RemoteError
from berth.sync.drift import queries
from berth.sync.drift.queries import ModelRow, VersionRow
from tests.unit.sync.conftest import START, Lab
from tests.unit.sync.made import Faulty, push_image, push_version
from tests.unit.sync.test_runs import carry_out


async def models(lab: Lab, **wanted: Any) -> list[ModelRow]:
    wanted = {"owners": None, "rule": None, "target": None, "after": ("", ""), "limit": 50} | wanted
    async with lab.database.reading() as conn:
        return await queries.models(conn, **wanted)


async def versions(lab: Lab, rule_id: int) -> dict[str, VersionRow]:
    async with lab.database.reading() as conn:
        found = await queries.versions(conn, rule_id, model=None, after=("", ""), limit=50)
    return {row.tag: row for row in found}


async def test_what_differs_keeps_the_time_it_was_first_seen(lab: Lab) -> None:
    await lab.project("lab")
    await push_image(lab.depot, "lab/net", "1.0.0", layers=[b"ours"])
    await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"theirs"])
    await push_version(lab.depot, "lab/net", "1.1.0")
    rule = await lab.rule("out", "depot", "hub")
    assert await models(lab) == []
    await carry_out(lab, rule, kind="plan")
    lab.forward(hours=5)
    await push_version(lab.depot, "lab/net", "1.2.0")
    await carry_out(lab, rule, kind="plan")
    [row] = await models(lab)
    assert (row.rule, row.source, row.target, row.model) == ("out", "depot", "hub", "lab/net")
    assert (row.missing, row.conflicts, row.surplus, row.evidence_missing, row.failing) == (2, 1, 0, 0, 0)
    assert (row.since, row.versions) == (START, ["1.0.0", "1.1.0", "1.2.0"])
    found = await versions(lab, rule.id)
    assert {tag: found[tag].since for tag in found} == {
        "1.0.0": START,
        "1.1.0": START,
        "1.2.0": START + timedelta(hours=5),
    }
    assert found["1.0.0"].code == "other_digest"


async def test_what_is_copied_differs_no_longer_and_a_conflict_stays(lab: Lab) -> None:
    await lab.project("lab")
    await push_image(lab.depot, "lab/net", "1.0.0", layers=[b"ours"])
    await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"theirs"])
    await push_version(lab.depot, "lab/net", "1.1.0")
    rule = await lab.rule("out", "depot", "hub")
    await carry_out(lab, rule)
    assert list(await versions(lab, rule.id)) == ["1.0.0"]
    # Settled by a person at the target: the next look takes the rest away.
    await lab.hub.delete_tag("lab/net", "1.0.0")
    await carry_out(lab, rule)
    assert await versions(lab, rule.id) == {}


async def test_a_failed_copy_says_why_and_since_when(lab: Lab) -> None:
    await lab.project("lab")
    await push_version(lab.depot, "lab/net", "1.0.0")
    rule = await lab.rule("out", "depot", "hub")
    lab.faults["hub"] = Faulty(
        lab.hub, fails=lambda number, name: RemoteError("The hub is ill.") if name == "push_manifest" else None
    )
    await carry_out(lab, rule)
    lab.forward(hours=1)
    await carry_out(lab, rule)
    [row] = await models(lab)
    assert (row.missing, row.failing, row.since) == (1, 1, START)
    assert "The hub is ill." in str((await versions(lab, rule.id))["1.0.0"].error)
    lab.faults.clear()
    await carry_out(lab, rule)
    assert await models(lab) == []


async def test_missing_signatures_and_surplus_are_counted_apart(lab: Lab) -> None:
    await lab.project("lab")
    root = await push_image(lab.depot, "lab/net", "1.0.0", layers=[b"same"])
    await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"same"])
    await push_image(lab.depot, "lab/net", root.replace(":", "-") + ".sig", layers=[b"signature"])
    await push_image(lab.hub, "lab/net", "0.9.0", layers=[b"gone here"])
    rule = await lab.rule("mirror", "depot", "hub", direction="mirror", delete="untag")
    await carry_out(lab, rule, kind="plan")
    [row] = await models(lab, rule="mirror", target="hub")
    assert (row.missing, row.evidence_missing, row.surplus) == (0, 1, 1)
    assert await models(lab, target="elsewhere") == []
    assert await models(lab, owners=["others"]) == []


async def test_a_rule_says_when_its_places_were_compared(lab: Lab) -> None:
    await lab.project("lab")
    rule = await lab.rule("out", "depot", "hub")
    async with lab.database.reading() as conn:
        [before] = await queries.rules(conn, owners=None, rule=None, limit=10)
    assert before.checked_at is None
    await push_version(lab.depot, "lab/net", "1.0.0")
    await carry_out(lab, rule, kind="plan")
    async with lab.database.reading() as conn:
        [after] = await queries.rules(conn, owners=None, rule="out", limit=10)
    assert (after.checked_at, after.versions, after.since) == (START, 1, START)
