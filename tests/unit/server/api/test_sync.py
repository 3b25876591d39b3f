"""Sync rules and runs over HTTP: who may make, see, start and stop them, and where a version lives."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from tests.unit.server.api.conftest import Staffed

RULE = {"name": "out", "source": "depot", "target": "hub", "project": "vision"}
HUB = {"name": "hub", "kind": "folder", "url": "file:///srv/models", "takes_open": True}


@pytest.fixture
async def staff(staffed: Staffed) -> Staffed:
    added = await staffed.world.ask("POST", "/registries", token=staffed.tokens["root"], json=HUB)
    assert added.status_code == 201, added.text
    return staffed


async def ask(staff: Staffed, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    answer = await staff.world.ask(method, path, token=staff.tokens[who], json=body)
    return answer.status_code, answer.json() if answer.content else None


@pytest.mark.parametrize(
    ("who", "status"),
    [("root", 201), ("admin", 201), ("maintainer", 201), ("reviewer", 403), ("auditor", 403), ("stranger", 404)],
)
async def test_maintainers_make_rules_of_their_project(staff: Staffed, who: str, status: int) -> None:
    assert (await ask(staff, who, "POST", "/sync/rules", RULE))[0] == status


@pytest.mark.parametrize(
    "change",
    [
        {"source": "hub", "target": "depot", "project": "others", "terms": {"target_project": "vision"}},
        {"source": "depot", "target": "hub", "terms": {"target_project": "others"}},
        {"source": "hub", "target": "hub", "terms": {"target_project": "others"}},
    ],
)
async def test_only_admins_reach_other_names_with_our_credentials(staff: Staffed, change: dict[str, Any]) -> None:
    assert (await ask(staff, "maintainer", "POST", "/sync/rules", {**RULE, **change}))[0] == 403
    assert (await ask(staff, "root", "POST", "/sync/rules", {**RULE, **change}))[0] == 201


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"target": "nowhere"}, 404),
        ({"target": "folder:/etc"}, 404),
        ({"target": "depot"}, 400),
        ({"name": "Not A Name"}, 400),
        ({"schedule": "every day"}, 400),
        ({"schedule": "0 0 30 2 *"}, 400),
        ({"terms": {"range": "not a range"}}, 400),
        ({"terms": {"direction": "pull"}}, 400),
        ({"terms": {"delete": "untag"}}, 400),
        ({"terms": {"window": "at night"}}, 400),
        ({"terms": {"delete": "everything"}}, 422),
        ({"terms": {"colour": "red"}}, 422),
        ({"on_admission": True, "terms": {"only_higher": True}}, 400),
        ({"source": "hub", "target": "depot", "on_admission": True}, 400),
    ],
)
async def test_a_rule_that_cannot_work_is_refused(staff: Staffed, change: dict[str, Any], status: int) -> None:
    answered, body = await ask(staff, "root", "POST", "/sync/rules", {**RULE, **change})
    assert answered == status, body


async def test_a_rule_comes_back_complete(staff: Staffed) -> None:
    wanted = {**RULE, "schedule": "0 3 * * *", "terms": {"range": "^1", "only_higher": True}}
    _, made = await ask(staff, "maintainer", "POST", "/sync/rules", wanted)
    assert made["owner"] == "vision"
    assert made["terms"] == {"range": "^1", "only_higher": True, "direction": "push"}
    assert made["next_run_at"].startswith("2026-05-05T03:00:00")
    assert (await ask(staff, "guest", "GET", "/sync/rules/out"))[1] == made
    assert (await ask(staff, "guest", "GET", "/sync/rules"))[1]["items"] == [made]
    assert (await ask(staff, "maintainer", "POST", "/sync/rules", wanted))[0] == 409
    audited = await staff.world.audited(action="project.configure", object="sync rule out")
    assert [row.principal for row in audited] == ["the-maintainer"]


async def test_rules_of_other_projects_are_as_good_as_none(staff: Staffed) -> None:
    await ask(staff, "maintainer", "POST", "/sync/rules", RULE)
    await ask(
        staff,
        "root",
        "POST",
        "/sync/rules",
        {**RULE, "name": "between", "source": "hub", "target": "hub", "terms": {"target_project": "x"}},
    )
    assert (await ask(staff, "stranger", "GET", "/sync/rules"))[1]["items"] == []
    assert [r["name"] for r in (await ask(staff, "maintainer", "GET", "/sync/rules"))[1]["items"]] == ["out"]
    assert [r["name"] for r in (await ask(staff, "root", "GET", "/sync/rules"))[1]["items"]] == ["between", "out"]
    hidden = await staff.world.ask("GET", "/sync/rules/out", token=staff.tokens["stranger"])
    missing = await staff.world.ask("GET", "/sync/rules/xxx", token=staff.tokens["stranger"])
    assert hidden.status_code == missing.status_code == 404
    assert hidden.content.replace(b"out", b"xxx") == missing.content
    assert (await ask(staff, "maintainer", "GET", "/sync/rules/between"))[0] == 404
    assert (await ask(staff, "maintainer", "DELETE", "/sync/rules/between"))[0] == 404


async def test_starting_stopping_and_removing_take_a_maintainer(staff: Staffed) -> None:
    await ask(staff, "maintainer", "POST", "/sync/rules", RULE)
    for method, path in (("POST", "/runs"), ("POST", "/plan"), ("DELETE", "")):
        assert (await ask(staff, "reviewer", method, f"/sync/rules/out{path}"))[0] == 403
    status, run = await ask(staff, "maintainer", "POST", "/sync/rules/out/runs")
    assert (status, run["state"], run["kind"], run["bytes_transferred"]) == (202, "queued", "run", 0)
    assert (await ask(staff, "maintainer", "POST", "/sync/rules/out/runs"))[0] == 409
    assert (await ask(staff, "guest", "GET", f"/sync/runs/{run['id']}"))[1]["state"] == "queued"
    assert (await ask(staff, "stranger", "GET", f"/sync/runs/{run['id']}"))[0] == 404
    assert (await ask(staff, "guest", "GET", f"/sync/runs/{run['id']}/items"))[1]["items"] == []
    assert (await ask(staff, "reviewer", "POST", f"/sync/runs/{run['id']}/cancel"))[0] == 403
    assert (await ask(staff, "maintainer", "POST", f"/sync/runs/{run['id']}/cancel"))[1]["cancel_requested"] is True
    assert [r["id"] for r in (await ask(staff, "guest", "GET", "/sync/rules/out/runs"))[1]["items"]] == [run["id"]]
    assert (await ask(staff, "maintainer", "DELETE", "/sync/rules/out"))[0] == 204
    assert (await ask(staff, "maintainer", "GET", f"/sync/runs/{run['id']}"))[0] == 404


async def test_switching_off_takes_the_schedule_away(staff: Staffed) -> None:
    await ask(staff, "maintainer", "POST", "/sync/rules", {**RULE, "schedule": "0 3 * * *"})
    _, off = await ask(staff, "maintainer", "PATCH", "/sync/rules/out", {"enabled": False})
    assert (off["enabled"], off["next_run_at"]) == (False, None)
    _, on = await ask(staff, "maintainer", "PATCH", "/sync/rules/out", {"enabled": True})
    assert (on["enabled"], on["next_run_at"] is None) == (True, False)


@pytest.mark.parametrize(
    ("who", "body", "status"),
    [
        ("root", {}, 202),
        ("maintainer", {"project": "vision"}, 202),
        ("maintainer", {}, 403),
        ("reviewer", {"project": "vision"}, 403),
        ("stranger", {"project": "vision"}, 404),
        ("root", {"project": "nothing-here"}, 404),
        ("root", {"project": "Not A Name"}, 400),
        ("root", {"colour": "red"}, 422),
    ],
)
async def test_who_may_import_and_from_what(staff: Staffed, who: str, body: dict[str, Any], status: int) -> None:
    answered, told = await ask(staff, who, "POST", "/registries/hub/import", body)
    assert answered == status, told
    assert (await ask(staff, "root", "POST", "/registries/nowhere/import", {}))[0] == 404


async def test_an_import_is_a_run_that_can_be_looked_at_and_stopped(staff: Staffed) -> None:
    _, dry = await ask(staff, "maintainer", "POST", "/registries/hub/import", {"project": "vision", "dry_run": True})
    _, run = await ask(staff, "maintainer", "POST", "/registries/hub/import", {"project": "vision"})
    assert [(r["kind"], r["rule"], r["state"]) for r in (dry, run)] == [
        ("import-plan", "import of hub", "queued"),
        ("import", "import of hub", "queued"),
    ]
    assert (await ask(staff, "maintainer", "POST", "/registries/hub/import", {"project": "vision"}))[0] == 409
    path = f"/sync/runs/{run['id']}"
    assert (await ask(staff, "guest", "GET", path))[1]["state"] == "queued"
    assert (await ask(staff, "stranger", "GET", path))[0] == 404
    assert (await ask(staff, "guest", "GET", f"{path}/items"))[1]["items"] == []
    assert (await ask(staff, "reviewer", "POST", f"{path}/cancel"))[0] == 403
    assert (await ask(staff, "maintainer", "POST", f"{path}/cancel"))[1]["cancel_requested"] is True
    _, whole = await ask(staff, "root", "POST", "/registries/hub/import", {"dry_run": True})
    assert (await ask(staff, "maintainer", "GET", f"/sync/runs/{whole['id']}"))[0] == 404, "it is about all projects"


async def test_a_home_must_be_a_known_registry(staff: Staffed) -> None:
    assert (await ask(staff, "maintainer", "PATCH", "/projects/vision", {"home": "nowhere"}))[0] == 400
    status, changed = await ask(staff, "maintainer", "PATCH", "/projects/vision", {"home": "hub"})
    assert (status, changed["home"]) == (200, "hub")


async def test_where_a_version_lives(staff: Staffed) -> None:
    await staff.world.version("vision/net", "1.0.0")
    path = "/projects/vision/models/net/versions/1.0.0/placements"
    assert (await ask(staff, "guest", "GET", path))[1] == {"items": [], "next": None}
    async with staff.world.database.transaction() as conn:
        await conn.execute(
            text(
                "insert into placements (version_id, registry, repository, state, error) "
                "select id, 'hub', 'vision/net', 'exposed', 'It could not be removed.' from versions"
            )
        )
    _, body = await ask(staff, "guest", "GET", path)
    assert [(i["registry"], i["state"], i["error"]) for i in body["items"]] == [
        ("hub", "exposed", "It could not be removed.")
    ]


async def test_where_the_bytes_of_a_version_are(staff: Staffed) -> None:
    await staff.world.version("vision/net", "1.0.0")
    path = "/projects/vision/models/net/versions/1.0.0/where"
    _, here = await ask(staff, "guest", "GET", path)
    assert (here["depot"]["state"], here["depot"]["blobs"], here["registries"], here["next"]) == ("depot", 2, [], None)
    assert here["depot"]["bytes_here"] == here["depot"]["bytes"]
    async with staff.world.database.transaction() as conn:
        await conn.execute(
            text(
                "insert into placements (version_id, registry, repository, state, found) "
                "select id, 'hub', 'vision/net', 'published', true from versions"
            )
        )
    assert (await ask(staff, "guest", "GET", path))[1]["depot"]["state"] == "cached"
    async with staff.world.database.transaction() as conn:
        await conn.execute(text("update blobs set location = null"))
    _, away = await ask(staff, "guest", "GET", path)
    assert (away["depot"]["state"], away["depot"]["bytes_here"], away["next"]) == ("remote", 0, "hub")
    assert [(p["registry"], p["found"], p["healthy"], p["latency_ms"]) for p in away["registries"]] == [
        ("hub", True, True, None)
    ]


async def test_a_publication_is_held_and_released(staff: Staffed) -> None:
    await staff.world.version("vision/net", "1.0.0")
    path = "/projects/vision/models/net/versions/1.0.0/placements"
    async with staff.world.database.transaction() as conn:
        await conn.execute(
            text(
                "insert into placements (version_id, registry, repository, blobs_done, blobs_total, bytes_done, "
                "bytes_total) select id, 'hub', 'vision/net', 2, 5, 20, 50 from versions"
            )
        )
    assert (await ask(staff, "reviewer", "POST", f"{path}/hold", {}))[0] == 403
    assert (await ask(staff, "maintainer", "POST", f"{path}/hold", {"registry": "elsewhere"}))[0] == 404
    status, held = await ask(staff, "maintainer", "POST", f"{path}/hold", {"registry": "hub"})
    (place,) = held["items"]
    assert (status, place["state"], place["held"], place["bytes_done"], place["bytes_total"]) == (
        200,
        "failed",
        True,
        20,
        50,
    )
    assert "berth sync release vision/net:1.0.0" in place["error"]
    assert (await ask(staff, "maintainer", "POST", f"{path}/hold", {}))[0] == 404

    _, released = await ask(staff, "maintainer", "POST", f"{path}/release", {})
    assert [(i["state"], i["held"], i["error"]) for i in released["items"]] == [("pending", False, None)]
    async with staff.world.database.reading() as conn:
        jobs = await conn.scalar(text("select count(*) from procrastinate_jobs where task_name = 'publish_version'"))
    assert jobs == 1


async def test_the_way_home_is_limited_by_the_project(staff: Staffed) -> None:
    limits = {"bytes_per_second": 1_000_000, "parallel_blobs": 2}
    status, changed = await ask(staff, "maintainer", "PATCH", "/projects/vision", {"publishing": limits})
    assert (status, changed["publishing"]) == (200, limits)
    too_many = {"publishing": {"parallel_blobs": 10_000}}
    assert (await ask(staff, "maintainer", "PATCH", "/projects/vision", too_many))[0] in (400, 422)
    _, freed = await ask(staff, "maintainer", "PATCH", "/projects/vision", {"publishing": {}})
    assert freed["publishing"] == {"bytes_per_second": None, "parallel_blobs": None}


async def test_a_denied_version_that_can_be_had_elsewhere_is_said_to_be_exposed(staff: Staffed) -> None:
    digest = await staff.world.version("vision/net", "1.0.0")
    async with staff.world.database.transaction() as conn:
        await conn.execute(
            text(
                "insert into placements (version_id, registry, repository, state, error) "
                "select id, 'hub', 'vision/net', 'exposed', 'Tags stay there.' from versions"
            )
        )
    path = "/projects/vision/models/net/versions/1.0.0"
    _, admitted = await ask(staff, "reviewer", "GET", f"{path}/verdict")
    assert (admitted["digest"], admitted["verdict"]) == (digest, "allow")
    assert "exposed" not in [reason["code"] for reason in admitted["reasons"]]
    await ask(staff, "reviewer", "POST", f"{path}/approval", {"decision": "revoked"})
    _, denied = await ask(staff, "reviewer", "GET", f"{path}/verdict")
    assert denied["verdict"] == "deny"
    assert denied["reasons"][-1] == {
        "code": "exposed",
        "message": "Exposed at hub as vision/net:1.0.0. Tags stay there.",
    }


@pytest.mark.parametrize(
    ("who", "seen"), [("root", ["out"]), ("guest", ["out"]), ("auditor", ["out"]), ("stranger", [])]
)
async def test_a_drift_report_tells_only_of_rules_that_one_may_see(staff: Staffed, who: str, seen: list[str]) -> None:
    assert (await ask(staff, "maintainer", "POST", "/sync/rules", RULE))[0] == 201
    status, report = await ask(staff, who, "GET", "/sync/drift")
    assert (status, [row["rule"] for row in report["rules"]]) == (200, seen)
    assert [row["state"] for row in report["rules"]] == ["unknown"] * len(seen)
    assert (report["models"], report["published"], report["next"]) == ([], [], None)
    assert (await ask(staff, who, "GET", "/sync/rules/out/drift"))[0] == (200 if seen else 404)
    assert (await ask(staff, who, "GET", "/sync/drift?after=nothing"))[0] == 400
