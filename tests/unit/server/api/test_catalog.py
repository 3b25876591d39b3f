"""Models, versions and aliases over the API: what a name means, what may be edited, what history remembers."""

from __future__ import annotations

import pytest

from tests.unit.server.api.conftest import Staffed
from tests.unit.server.api.world import World

MODEL = "/projects/vision/models/net"
VERSIONS = MODEL + "/versions"


@pytest.fixture
async def filled(staffed: Staffed) -> Staffed:
    for version in ("1.0.0", "1.2.0", "1.10.0", "2.0.0-rc.1", "1.2.0+cpu"):
        await staffed.world.version("vision/net", version)
    return staffed


async def meaning(filled: Staffed, ref: str, who: str = "guest") -> str | int:
    answer = await filled.world.ask("GET", f"{VERSIONS}/{ref}", token=filled.tokens[who])
    return str(answer.json()["version"]) if answer.status_code == 200 else answer.status_code


async def test_a_reference_means_a_version(filled: Staffed) -> None:
    """Semver precedence by hand: 2.0.0-rc.1 is a pre-release, 1.10.0 is above 1.2.0."""
    for ref, expected in {
        "1.0.0": "1.0.0",
        "1.2.0%2Bcpu": "1.2.0+cpu",
        "1.2.0_cpu": "1.2.0+cpu",
        "2.0.0-rc.1": "2.0.0-rc.1",
        "latest": "1.10.0",
        "1": "1.10.0",
        "%5E1.0": "1.10.0",
        "~1.0": "1.0.0",
        "%3E=1,%3C1.5": "1.2.0+cpu",
        "2": 404,
        "3.0.0": 404,
        "production": 404,
        "sha256:" + "0" * 64: 404,
        "%20": 404,
    }.items():
        found = await meaning(filled, ref)
        if ref == "%3E=1,%3C1.5":
            assert found in ("1.2.0", "1.2.0+cpu")
        else:
            assert found == expected, ref


async def test_a_digest_means_its_version(filled: Staffed) -> None:
    digest = await filled.world.version("vision/net", "3.0.0")
    assert await meaning(filled, digest) == "3.0.0"


async def test_quarantined_versions_are_shown_by_number_but_no_other_name_means_them(staffed: Staffed) -> None:
    world = staffed.world
    await world.project("strict", "strict")
    await world.member("strict", "the-guest", "guest")
    await world.version("strict/net", "1.0.0")
    path, token = "/projects/strict/models/net/versions", staffed.tokens["guest"]
    shown = (await world.ask("GET", f"{path}/1.0.0", token=token)).json()
    assert (shown["verdict"], shown["state"], shown["approval"]) == ("deny", "received", "none")
    for ref in ("latest", "1", "%5E1.0"):
        assert (await world.ask("GET", f"{path}/{ref}", token=token)).status_code == 404
    listed = (await world.ask("GET", path, token=token)).json()["items"]
    assert [(item["version"], item["verdict"]) for item in listed] == [("1.0.0", "deny")]
    model = (await world.ask("GET", "/projects/strict/models/net", token=token)).json()
    assert (model["latest"], model["versions"]) == (None, 1)


async def test_the_model_page_tells_latest_and_counts(filled: Staffed) -> None:
    model = (await filled.world.ask("GET", MODEL, token=filled.tokens["guest"])).json()
    assert (model["name"], model["kind"], model["latest"], model["versions"]) == ("vision/net", "model", "1.10.0", 5)
    items = (await filled.world.ask("GET", "/projects/vision/models", token=filled.tokens["guest"])).json()["items"]
    assert [(i["name"], i["newest_version"], i["newest_number"]) for i in items] == [("vision/net", "1.2.0+cpu", 5)]
    assert (await filled.world.ask("GET", "/projects/vision/models/none", token=filled.tokens["guest"])).json()[
        "code"
    ] == "name_unknown"


async def test_versions_are_listed_highest_first_page_by_page(filled: Staffed) -> None:
    everything = (await filled.world.ask("GET", VERSIONS, token=filled.tokens["guest"])).json()
    expected = ["2.0.0-rc.1", "1.10.0", "1.2.0+cpu", "1.2.0", "1.0.0"]
    assert [item["version"] for item in everything["items"]] == expected
    assert everything["next"] is None
    seen, after = [], ""
    while True:
        page = (await filled.world.ask("GET", f"{VERSIONS}?limit=2{after}", token=filled.tokens["guest"])).json()
        assert len(page["items"]) <= 2
        seen += [item["version"] for item in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == expected


async def test_deprecated_versions_are_meant_by_no_range(filled: Staffed) -> None:
    path, token = f"{VERSIONS}/1.10.0", filled.tokens["maintainer"]
    changed = await filled.world.ask("PATCH", path, token=token, json={"deprecated": True})
    assert changed.json()["deprecated"] is True
    assert await meaning(filled, "latest") in ("1.2.0", "1.2.0+cpu")
    assert await meaning(filled, "1.10.0") == "1.10.0"
    await filled.world.ask("PATCH", path, token=token, json={"deprecated": False})
    assert await meaning(filled, "latest") == "1.10.0"
    details = [row.detail for row in await filled.world.audited(action="version.edit")]
    assert details == [{"deprecated": False}, {"deprecated": True}]


async def test_a_deleted_version_is_gone_and_its_number_stays_listed_on_demand(filled: Staffed) -> None:
    world, token = filled.world, filled.tokens["maintainer"]
    assert (await world.ask("DELETE", f"{VERSIONS}/1.10.0", token=token)).status_code == 204
    assert await meaning(filled, "1.10.0") == 404
    assert await meaning(filled, "latest") in ("1.2.0", "1.2.0+cpu")
    assert (await world.ask("DELETE", f"{VERSIONS}/1.10.0", token=token)).status_code == 404
    listed = (await world.ask("GET", f"{VERSIONS}?deleted=true", token=token)).json()["items"]
    states = {item["version"]: (item["state"], item["verdict"]) for item in listed}
    assert states["1.10.0"] == ("deleted", "deny")
    assert len(states) == 5


@pytest.mark.parametrize("ref", ["latest", "1", "%5E1.0", "production"])
@pytest.mark.parametrize(
    ("method", "tail", "body"),
    [
        ("DELETE", "", None),
        ("PATCH", "", {"deprecated": True}),
        ("POST", "/approval", {"decision": "approved"}),
    ],
)
async def test_what_cannot_be_undone_names_an_exact_version(
    staffed: Staffed, ref: str, method: str, tail: str, body: object
) -> None:
    await staffed.world.version("vision/net", "1.0.0")
    answer = await staffed.world.ask(method, f"{VERSIONS}/{ref}{tail}", token=staffed.tokens["root"], json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")


async def test_the_overlay_is_merged_and_its_history_kept(filled: Staffed) -> None:
    world, token = filled.world, filled.tokens["developer"]
    first = {"description": "Finds cats", "labels": {"team": "vision"}, "links": {"Paper": "https://example.org/p"}}
    assert (await world.ask("PATCH", MODEL, token=token, json=first)).json()["overlay"] == first
    second = await world.ask("PATCH", MODEL, token=token, json={"labels": {"team": "core"}, "links": None})
    assert second.json()["overlay"] == {"description": "Finds cats", "labels": {"team": "core"}}
    history = [row.detail for row in await world.audited(action="model.edit", object="vision/net")]
    assert [entry["after"] for entry in history] == [second.json()["overlay"], first]
    path = f"{VERSIONS}/1.0.0"
    changed = await world.ask("PATCH", path, token=token, json={"overlay": {"description": "First"}})
    assert changed.json()["overlay"] == {"description": "First"}


@pytest.mark.parametrize(
    "body",
    [
        {"links": {"x": "javascript:alert(1)"}},
        {"links": {"x": 'https://a"onclick=1'}},
        {"links": {"x": "ftp://example.org"}},
        {"labels": {"": "x"}},
        {"labels": {"x": 5}},
        {"owner": "me"},
        {"description": "a\0b"},
        {"labels": {"a\0b": "x"}},
        {"description": ["x"]},
    ],
)
async def test_an_odd_overlay_is_refused_field_by_field(filled: Staffed, body: object) -> None:
    answer = await filled.world.ask("PATCH", MODEL, token=filled.tokens["developer"], json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"].startswith("body.")


async def move(world: World, token: str, version: str) -> None:
    answer = await world.ask("PUT", f"{MODEL}/aliases/production", token=token, json={"version": version})
    assert answer.status_code == 200, answer.text


async def test_an_alias_moves_remembers_and_goes_one_step_back(filled: Staffed) -> None:
    world, token = filled.world, filled.tokens["reviewer"]
    await move(world, token, "1.0.0")
    await move(world, token, "1.2.0")
    assert await meaning(filled, "production") == "1.2.0"
    shown = (await world.ask("GET", f"{VERSIONS}/1.2.0", token=token)).json()
    assert shown["aliases"] == ["production"]
    back = await world.ask("POST", f"{MODEL}/aliases/production/rollback", token=token)
    assert (back.status_code, back.json()["version"], back.json()["alias"]) == (200, "1.0.0", "production")
    listed = (await world.ask("GET", f"{MODEL}/aliases", token=token)).json()["items"]
    assert [(item["alias"], item["version"], item["moved_by"]) for item in listed] == [
        ("production", "1.0.0", "the-reviewer")
    ]
    history = (await world.ask("GET", f"{MODEL}/aliases/production/history", token=token)).json()["items"]
    assert [item["version"] for item in history] == ["1.0.0", "1.2.0", "1.0.0"]
    assert (await world.ask("DELETE", f"{MODEL}/aliases/production", token=token)).status_code == 204
    assert await meaning(filled, "production") == 404
    assert len(await world.audited(action="alias.move", outcome="done")) == 4


async def test_what_an_alias_meant_at_an_instant_has_an_answer(filled: Staffed) -> None:
    world, token = filled.world, filled.tokens["reviewer"]
    await move(world, token, "1.0.0")
    await move(world, token, "1.2.0")
    await world.ask("DELETE", f"{MODEL}/aliases/production", token=token)
    path = f"{MODEL}/aliases/production/history"
    moves = (await world.ask("GET", path, token=token)).json()["items"]
    assert [item["version"] for item in moves] == [None, "1.2.0", "1.0.0"]

    async def at(instant: str) -> list[str]:
        answer = await world.ask("GET", path, token=token, params={"at": instant})
        assert answer.status_code == 200, answer.text
        return [item["version"] for item in answer.json()["items"]]

    assert await at(moves[0]["moved_at"]) == []
    assert await at(moves[1]["moved_at"]) == ["1.2.0"]
    assert await at(moves[2]["moved_at"]) == ["1.0.0"]
    assert await at("2020-01-01T00:00:00Z") == []
    assert await at("2020-01-01") == []
    assert (await world.ask("GET", path, token=token, params={"at": "soon"})).status_code == 422


async def test_an_alias_is_not_set_on_what_the_gate_keeps(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    await world.project("strict", "strict")
    await world.version("strict/net", "1.0.0")
    answer = await world.ask(
        "PUT", "/projects/strict/models/net/aliases/production", token=root, json={"version": "1.0.0"}
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "denied")
    codes = {reason["code"] for reason in answer.json()["reasons"]}
    assert {"scan.missing", "weights.missing", "signature.missing", "approval.missing"} <= codes


@pytest.mark.parametrize("name", ["latest", "1.0.0", "1", "Production", "a b", "%5E1"])
async def test_an_alias_has_a_name_of_its_own(filled: Staffed, name: str) -> None:
    path = f"{MODEL}/aliases/{name}"
    answer = await filled.world.ask("PUT", path, token=filled.tokens["reviewer"], json={"version": "1.0.0"})
    assert (answer.status_code, answer.json()["code"]) == (400, "name_invalid")


async def test_a_rollback_without_an_earlier_move_is_a_conflict(filled: Staffed) -> None:
    path = f"{MODEL}/aliases/production/rollback"
    assert (await filled.world.ask("POST", path, token=filled.tokens["reviewer"])).status_code == 409
    await move(filled.world, filled.tokens["reviewer"], "1.0.0")
    assert (await filled.world.ask("POST", path, token=filled.tokens["reviewer"])).status_code == 409


async def test_a_version_that_an_alias_means_is_not_deleted(filled: Staffed) -> None:
    await move(filled.world, filled.tokens["reviewer"], "1.0.0")
    answer = await filled.world.ask("DELETE", f"{VERSIONS}/1.0.0", token=filled.tokens["root"])
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_benchmarks_that_a_version_declares_are_served_with_it(staffed: Staffed) -> None:
    text = (
        "xumi: 1\nname: vision/net\nversion: 1.0.0\nentry: {command: [serve]}\nruntime: {base: 'python:3.11'}\n"
        "benchmarks:\n"
        "- {name: digits, dataset: {reference: mnist, split: test}, metrics: [{name: accuracy, goal: 0.9}]}\n"
    )
    await staffed.world.version("vision/net", "1.0.0", xumi=text)
    shown = (await staffed.world.ask("GET", f"{VERSIONS}/1.0.0", token=staffed.tokens["guest"])).json()
    (benchmark,) = shown["declared"]["xumi"]["benchmarks"]
    assert benchmark["dataset"] == {"reference": "mnist", "split": "test"}
    assert benchmark["metrics"] == [{"name": "accuracy", "better": "higher", "goal": 0.9}]
