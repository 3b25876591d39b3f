"""Tokens: exactly their scope, gone when revoked, expired or disabled, and nobody makes more than they hold."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest

from berth.access import bearer
from berth.access import queries as access
from tests.unit.server.api.conftest import Staffed
from tests.unit.server.api.world import World


def signed(world: World, actor: access.PrincipalRow, *, token_id: int | None = None, **more: Any) -> str:
    values: dict[str, Any] = {"repositories": {"vision/net": ["pull"]}, **more}
    return bearer.issue(
        world.secret,
        name=actor.name,
        principal_id=actor.id,
        epoch=actor.epoch,
        token_id=token_id,
        now=world.clock.now,
        **values,
    )


async def principal(world: World, name: str) -> access.PrincipalRow:
    async with world.database.reading() as conn:
        row = await access.principal_by_name(conn, name)
    assert row is not None
    return row


async def status(world: World, token: str | None, path: str = "/whoami", **more: Any) -> int:
    return (await world.ask("GET", path, token=token, **more)).status_code


async def test_a_token_signs_in_as_bearer_and_as_basic_password(staffed: Staffed) -> None:
    world, token = staffed.world, staffed.tokens["reader"]
    assert (await world.ask("GET", "/whoami", token=token)).json()["name"] == "the-reader"

    def basic(user: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()}

    assert await status(world, None, headers=basic("the-reader")) == 200
    assert await status(world, None, headers=basic("the-admin")) == 401
    assert await status(world, None, headers=basic("a\0b")) == 401


async def test_a_token_made_for_a_role_holds_exactly_that_role_there_and_nothing_elsewhere(staffed: Staffed) -> None:
    world = staffed.world
    answer = await world.ask(
        "POST",
        "/tokens",
        token=staffed.tokens["root"],
        json={"user": "root", "project": "vision", "role": "reader", "name": "for ci", "expires_in_days": 1},
    )
    assert answer.status_code == 201
    made = answer.json()
    assert made["token"].startswith("berth_")
    assert (made["project"], made["role"], made["user"], made["name"]) == ("vision", "reader", "root", "for ci")
    token = made["token"]
    who = (await world.ask("GET", "/whoami", token=token)).json()
    assert (who["token_project"], who["token_role"], who["global_role"], who["roles"]) == ("vision", "reader", None, {})
    assert await status(world, token, "/projects/vision") == 200
    assert await status(world, token, "/projects/secret") == 404
    assert await status(world, token, "/users") == 403
    assert await status(world, token, "/audit") == 403
    assert (await world.ask("POST", "/projects", token=token, json={"name": "x1"})).status_code == 403
    change = await world.ask("PATCH", "/projects/vision", token=token, json={"description": "x"})
    assert change.status_code == 403
    listed = (await world.ask("GET", "/projects", token=token)).json()
    assert [item["name"] for item in listed["items"]] == ["vision"]


async def test_the_text_of_a_token_is_stored_nowhere(staffed: Staffed) -> None:
    world = staffed.world
    made = (await world.ask("POST", "/tokens", token=staffed.tokens["root"], json={"user": "stranger"})).json()
    listed = (await world.ask("GET", "/tokens", token=staffed.tokens["root"])).json()
    assert all("token" not in item for item in listed["items"])
    rows = await world.audited(action="token.manage", object=f"token {made['id']}")
    assert len(rows) == 1
    assert made["token"] not in str(rows)


async def test_a_revoked_token_stops_at_once(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    made = (await world.ask("POST", "/tokens", token=root, json={"user": "stranger"})).json()
    assert await status(world, made["token"]) == 200
    assert (await world.ask("DELETE", f"/tokens/{made['id']}", token=root)).status_code == 204
    assert await status(world, made["token"]) == 401
    assert (await world.ask("DELETE", f"/tokens/{made['id']}", token=root)).status_code == 204


async def test_an_expired_token_is_refused_from_its_last_instant_on(staffed: Staffed) -> None:
    world = staffed.world
    made = (
        await world.ask(
            "POST", "/tokens", token=staffed.tokens["root"], json={"user": "stranger", "expires_in_days": 1}
        )
    ).json()
    world.clock.forward(days=1, seconds=-1)
    assert await status(world, made["token"]) == 200
    world.clock.forward(seconds=1)
    assert await status(world, made["token"]) == 401


async def test_a_disabled_principal_is_out_with_every_token_and_bearer(staffed: Staffed) -> None:
    world = staffed.world
    short = signed(world, await principal(world, "stranger"))
    assert await status(world, short) == 200
    path, root = "/users/stranger", staffed.tokens["root"]
    assert (await world.ask("PATCH", path, token=root, json={"disabled": True})).json()["disabled"] is True
    assert await status(world, staffed.tokens["stranger"]) == 401
    assert await status(world, short) == 401
    await world.ask("PATCH", path, token=root, json={"disabled": False})
    assert await status(world, staffed.tokens["stranger"]) == 200
    # The epoch has risen: what was signed before stays void.
    assert await status(world, short) == 401
    assert await status(world, signed(world, await principal(world, "stranger"))) == 200


async def test_a_bearer_token_dies_with_the_api_token_it_came_from(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    made = (await world.ask("POST", "/tokens", token=root, json={"user": "stranger"})).json()
    owner = await principal(world, "stranger")
    short = signed(world, owner, token_id=made["id"])
    assert await status(world, short) == 200
    assert await status(world, signed(world, owner, token_id=made["id"] + 1000)) == 401
    await world.ask("DELETE", f"/tokens/{made['id']}", token=root)
    assert await status(world, short) == 401


async def test_a_bearer_token_keeps_the_scope_of_the_api_token_it_came_from(staffed: Staffed) -> None:
    world = staffed.world
    body = {"user": "root", "project": "secret", "role": "guest"}
    made = (await world.ask("POST", "/tokens", token=staffed.tokens["root"], json=body)).json()
    await world.version("vision/net", "1.0.0")
    short = signed(world, await principal(world, "root"), token_id=made["id"])
    assert await status(world, short, "/projects/vision/models/net/versions/1.0.0") == 404


async def test_a_bearer_token_reads_only_about_the_repositories_it_names(staffed: Staffed) -> None:
    world = staffed.world
    for name in ("vision/net", "vision/other"):
        await world.version(name, "1.0.0")
    short = signed(world, await principal(world, "the-admin"))
    assert await status(world, short, "/projects/vision/models/net/versions/1.0.0") == 200
    assert await status(world, short, "/projects/vision/models/other/versions/1.0.0") == 403
    assert await status(world, short, "/projects/vision") == 403
    assert await status(world, short, "/projects") == 403
    assert await status(world, short, "/tokens") == 403
    deleted = await world.ask("DELETE", "/projects/vision/models/net/versions/1.0.0", token=short)
    assert deleted.status_code == 403
    made = await world.ask("POST", "/tokens", token=short, json={"user": "the-admin"})
    assert made.status_code == 403


async def test_a_forged_or_foreign_bearer_is_refused(staffed: Staffed) -> None:
    world = staffed.world
    owner = await principal(world, "root")
    assert await status(world, signed(world, owner, audience="elsewhere")) == 401
    world.secret = b"t" * 32
    assert await status(world, signed(world, owner)) == 401
    assert await status(world, "not.a.token") == 401
    assert await status(world, "berth_" + "x" * 43) == 401


# Who makes a token for whom, limited to `vision` with a role (None: unlimited) → what the service answers.
GRANTS = [
    ("root", "the-reader", "admin", 201),
    ("root", "the-reader", None, 201),
    ("developer", "the-developer", "reader", 201),
    ("developer", "the-developer", "developer", 201),
    ("developer", "the-developer", "reviewer", 403),
    ("developer", "the-developer", None, 201),
    ("developer", "the-reader", "reader", 403),
    ("developer", "robot", "reader", 403),
    ("maintainer", "robot", "maintainer", 201),
    ("maintainer", "robot", "admin", 403),
    ("maintainer", "robot", None, 403),
    ("maintainer", "the-reader", "reader", 403),
    ("maintainer", "nobody", "reader", 404),
    ("auditor", "auditor", "reader", 403),
    ("auditor", "auditor", None, 201),
    ("stranger", "stranger", "reader", 404),
    ("stranger", "root", None, 403),
]


@pytest.mark.parametrize(("who", "user", "role", "expected"), GRANTS)
async def test_who_may_make_which_token(staffed: Staffed, who: str, user: str, role: str | None, expected: int) -> None:
    await staffed.world.principal("robot", kind="robot")
    body: dict[str, Any] = {"user": user}
    if role is not None:
        body |= {"project": "vision", "role": role}
    answer = await staffed.world.ask("POST", "/tokens", token=staffed.tokens[who], json=body)
    assert answer.status_code == expected, answer.text
    denied = await staffed.world.audited(
        outcome="denied", principal=who if who in ("root", "auditor") else f"the-{who}"
    )
    assert bool(denied) is (expected == 403 and who != "stranger")


async def test_a_scoped_token_makes_and_sees_no_wider_one(staffed: Staffed) -> None:
    world = staffed.world
    token = await world.token("the-admin", project="vision", role="developer")
    for body, expected in (
        ({"user": "the-admin"}, 403),
        ({"user": "the-admin", "project": "vision", "role": "maintainer"}, 403),
        ({"user": "the-admin", "project": "secret", "role": "guest"}, 404),
        ({"user": "the-admin", "project": "vision", "role": "reader"}, 201),
    ):
        assert (await world.ask("POST", "/tokens", token=token, json=body)).status_code == expected, body
    listed = (await world.ask("GET", "/tokens", token=token)).json()["items"]
    assert [(item["project"], item["role"]) for item in listed] == [("vision", "developer")]
    everything = (await world.ask("GET", "/tokens", token=staffed.tokens["root"])).json()["items"]
    other = next(item for item in everything if item["user"] == "the-admin" and item["project"] is None)
    assert (await world.ask("DELETE", f"/tokens/{other['id']}", token=token)).status_code == 404
    assert await status(world, staffed.tokens["admin"]) == 200


async def test_a_token_made_for_oneself_ends_no_later_than_the_one_it_was_made_with(staffed: Staffed) -> None:
    world = staffed.world
    end = world.clock.now + timedelta(hours=1)
    token = await world.token("stranger", expires_at=end)
    for days in (None, 30):
        body = {"user": "stranger"} | ({} if days is None else {"expires_in_days": days})
        made = (await world.ask("POST", "/tokens", token=token, json=body)).json()
        assert made["expires_at"] == end.isoformat().replace("+00:00", "Z")


async def test_a_maintainer_sees_and_ends_the_tokens_of_the_project(staffed: Staffed) -> None:
    world, maintainer = staffed.world, staffed.tokens["maintainer"]
    await world.principal("robot", kind="robot")
    robot = await world.token("robot", project="vision", role="developer")
    listed = (await world.ask("GET", "/tokens?project=vision", token=maintainer)).json()["items"]
    assert [(item["user"], item["role"]) for item in listed] == [("robot", "developer")]
    assert (await world.ask("GET", "/tokens?project=secret", token=maintainer)).status_code == 404
    assert (await world.ask("DELETE", f"/tokens/{listed[0]['id']}", token=staffed.tokens["reader"])).status_code == 404
    assert (await world.ask("DELETE", f"/tokens/{listed[0]['id']}", token=maintainer)).status_code == 204
    assert await status(world, robot) == 401


@pytest.mark.parametrize(
    "body",
    [
        {"user": "root", "project": "vision"},
        {"user": "root", "role": "reader"},
        {"user": "root", "project": "vision", "role": "owner"},
    ],
)
async def test_half_a_scope_and_unknown_roles_are_refused(staffed: Staffed, body: dict[str, str]) -> None:
    answer = await staffed.world.ask("POST", "/tokens", token=staffed.tokens["root"], json=body)
    assert answer.status_code == 400
    assert answer.json()["hint"]
