"""Projects, members and users: what changes, what is refused, and what each change leaves in the audit log."""

from __future__ import annotations

import pytest

from berth.access import users as access_users
from tests.unit.server.api.conftest import Staffed
from tests.unit.server.api.world import World


async def test_a_project_is_created_with_the_strict_policy_unless_told_otherwise(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    made = await world.ask("POST", "/projects", token=root, json={"name": "speech", "description": "Voices"})
    assert made.status_code == 201
    assert (made.json()["policy_preset"], made.json()["home"]) == ("strict", "depot")
    scanned = await world.ask("POST", "/projects", token=root, json={"name": "text", "policy": "scanned"})
    assert scanned.json()["policy"] == {"preset": "scanned"}
    again = await world.ask("POST", "/projects", token=root, json={"name": "speech"})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert len(await world.audited(action="project.create", project="speech")) == 1


@pytest.mark.parametrize(
    "name", ["api", "v2", "docs", "healthz", "metrics", "Vision", "a/b", "-a", "a--b", "ä", "x" * 129]
)
async def test_reserved_and_odd_project_names_are_refused(staffed: Staffed, name: str) -> None:
    answer = await staffed.world.ask("POST", "/projects", token=staffed.tokens["root"], json={"name": name})
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "name_invalid"


@pytest.mark.parametrize("policy", ["lenient", "", {"preset": "strict", "max_report_age": 3}, {"preset": 5}])
async def test_an_unknown_policy_is_refused_with_a_hint(staffed: Staffed, policy: object) -> None:
    root = staffed.tokens["root"]
    for method, path, body in (
        ("POST", "/projects", {"name": "speech", "policy": policy}),
        ("PATCH", "/projects/vision", {"policy": policy}),
    ):
        answer = await staffed.world.ask(method, path, token=root, json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["hint"]


async def test_a_project_is_changed_and_the_change_audited(staffed: Staffed) -> None:
    world, maintainer = staffed.world, staffed.tokens["maintainer"]
    body = {"policy": {"preset": "scanned", "max_report_age_days": 7}, "description": "New"}
    changed = (await world.ask("PATCH", "/projects/vision", token=maintainer, json=body)).json()
    assert changed["policy"] == {"preset": "scanned", "max_report_age_days": 7}
    assert changed["description"] == "New"
    assert (await world.ask("GET", "/projects/vision", token=maintainer)).json() == changed
    details = [row.detail for row in await world.audited(action="project.configure", outcome="done")]
    assert {"description": "New"} in details
    assert any(detail.get("before") == {"preset": "open"} for detail in details)
    assert (await world.ask("PATCH", "/projects/vision", token=maintainer, json={"home": "nowhere"})).status_code == 400


async def test_only_an_empty_project_is_removed(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    await world.version("vision/net", "1.0.0")
    kept = await world.ask("DELETE", "/projects/vision", token=root)
    assert (kept.status_code, kept.json()["code"]) == (409, "conflict")
    await world.blob("secret/net", b"linked, never named by a manifest")
    assert (await world.ask("DELETE", "/projects/secret", token=root)).status_code == 204
    assert (await world.ask("GET", "/projects/secret", token=root)).status_code == 404
    assert len(await world.audited(action="project.delete", project="secret")) == 1


async def test_a_project_keeps_its_burnt_numbers_after_its_last_version_is_deleted(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    await world.version("vision/net", "1.0.0")
    path = "/projects/vision/models/net/versions/1.0.0"
    assert (await world.ask("DELETE", path, token=root)).status_code == 204
    assert (await world.ask("DELETE", "/projects/vision", token=root)).status_code == 409


async def test_the_list_shows_only_what_the_caller_may_see(staffed: Staffed) -> None:
    names = {}
    for who in ("root", "auditor", "guest", "stranger"):
        answer = await staffed.world.ask("GET", "/projects", token=staffed.tokens[who])
        names[who] = [(item["name"], item["role"]) for item in answer.json()["items"]]
    assert names == {
        "root": [("secret", None), ("vision", None)],
        "auditor": [("secret", None), ("vision", None)],
        "guest": [("vision", "guest")],
        "stranger": [],
    }


async def test_a_member_gets_exactly_the_role(staffed: Staffed) -> None:
    world, maintainer = staffed.world, staffed.tokens["maintainer"]
    path = "/projects/vision/members/stranger"
    assert (await world.ask("GET", "/projects/vision", token=staffed.tokens["stranger"])).status_code == 404
    given = await world.ask("PUT", path, token=maintainer, json={"role": "reader"})
    assert (given.status_code, given.json()["role"]) == (200, "reader")
    assert (await world.ask("GET", "/projects/vision", token=staffed.tokens["stranger"])).json()["role"] == "reader"
    assert (await world.ask("DELETE", path, token=maintainer)).status_code == 204
    assert (await world.ask("GET", "/projects/vision", token=staffed.tokens["stranger"])).status_code == 404
    assert (await world.ask("DELETE", path, token=maintainer)).status_code == 404


@pytest.mark.parametrize(
    ("user", "role", "expected"),
    [
        ("the-guest", "admin", 403),
        ("the-admin", "guest", 403),
        ("the-guest", "maintainer", 200),
        ("the-maintainer", "admin", 403),
        ("the-guest", "owner", 400),
        ("nobody", "guest", 404),
    ],
)
async def test_nobody_gives_or_takes_a_role_above_their_own(
    staffed: Staffed, user: str, role: str, expected: int
) -> None:
    answer = await staffed.world.ask(
        "PUT", f"/projects/vision/members/{user}", token=staffed.tokens["maintainer"], json={"role": role}
    )
    assert answer.status_code == expected, answer.text
    assert len(await staffed.world.audited(action="member.manage", outcome="denied")) == (expected == 403)


async def test_a_maintainer_does_not_remove_an_admin(staffed: Staffed) -> None:
    path = "/projects/vision/members/the-admin"
    assert (await staffed.world.ask("DELETE", path, token=staffed.tokens["maintainer"])).status_code == 403


async def test_a_lower_role_revokes_tokens_above_it_and_removal_all_of_the_project(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    high = await world.token("the-developer", project="vision", role="developer")
    low = await world.token("the-developer", project="vision", role="reader")
    own = staffed.tokens["developer"]
    path = "/projects/vision/members/the-developer"

    async def works(token: str) -> bool:
        return (await world.ask("GET", "/whoami", token=token)).status_code == 200

    await world.ask("PUT", path, token=root, json={"role": "reader"})
    assert [await works(token) for token in (high, low, own)] == [False, True, True]
    await world.ask("DELETE", path, token=root)
    assert [await works(token) for token in (high, low, own)] == [False, False, True]


async def test_users_are_added_once_with_a_checked_name(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    body = {"name": "ci-robot", "kind": "robot"}
    assert (await world.ask("POST", "/users", token=root, json=body)).status_code == 201
    assert (await world.ask("POST", "/users", token=root, json=body)).status_code == 409
    for odd in ("CI", "a:b", "-a", "", "a b", "anonymous", "ä"):
        answer = await world.ask("POST", "/users", token=root, json={"name": odd})
        assert (answer.status_code, answer.json()["code"]) == (400, "name_invalid"), odd
    for wrong in ({"kind": "god"}, {"global_role": "owner"}):
        answer = await world.ask("POST", "/users", token=root, json={"name": "zoe", **wrong})
        assert answer.status_code == 400


async def test_the_last_global_admin_is_not_disabled(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    assert (await world.ask("PATCH", "/users/root", token=root, json={"disabled": True})).status_code == 409
    second = await world.principal("second", global_role="admin")
    assert (await world.ask("PATCH", "/users/root", token=root, json={"disabled": True})).status_code == 200
    assert (await world.ask("PATCH", "/users/second", token=second, json={"disabled": True})).status_code == 409


async def test_the_first_start_makes_one_admin_with_a_working_token(world: World) -> None:
    async with world.database.transaction() as conn:
        token = await access_users.ensure_admin(conn)
    assert token is not None
    who = (await world.ask("GET", "/whoami", token=token)).json()
    assert (who["name"], who["global_role"]) == ("admin", "admin")
    async with world.database.transaction() as conn:
        assert await access_users.ensure_admin(conn) is None


async def test_the_bearer_secret_is_made_once(world: World) -> None:
    async with world.database.transaction() as conn:
        first = await access_users.ensure_bearer_secret(conn)
    async with world.database.transaction() as conn:
        assert await access_users.ensure_bearer_secret(conn) == first
    assert len(first) == 32


async def test_the_audit_log_of_a_project_shows_nothing_of_others(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    await world.ask("PATCH", "/projects/vision", token=root, json={"description": "a"})
    await world.ask("PATCH", "/projects/secret", token=root, json={"description": "b"})
    answer = await world.ask("GET", "/audit?project=vision", token=staffed.tokens["maintainer"])
    assert {item["project"] for item in answer.json()["items"]} == {"vision"}
    assert (await world.ask("GET", "/audit?project=secret", token=staffed.tokens["maintainer"])).status_code == 404
    assert (await world.ask("GET", "/audit", token=staffed.tokens["maintainer"])).status_code == 403
    everything = (await world.ask("GET", "/audit", token=staffed.tokens["auditor"])).json()["items"]
    assert {"vision", "secret"} <= {item["project"] for item in everything}


async def test_a_refused_try_is_audited_although_its_transaction_was_rolled_back(staffed: Staffed) -> None:
    world = staffed.world
    await world.ask("DELETE", "/projects/vision", token=staffed.tokens["reader"])
    await world.ask("GET", "/projects/secret", token=staffed.tokens["reader"])
    await world.ask("GET", "/projects/secret")
    rows = await world.audited(outcome="denied")
    assert [(row.principal, row.action, row.project) for row in rows] == [
        ("the-reader", "project.read", "secret"),
        ("the-reader", "project.delete", "vision"),
    ]
    assert rows[1].object == "DELETE /api/v1/projects/vision"
