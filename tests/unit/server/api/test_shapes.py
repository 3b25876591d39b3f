"""Problem documents, paging, odd input, health and metrics: the same shape everywhere, never a 500."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from berth.db.engine import Database
from berth.errors import Denied, Unavailable
from berth.server import problems
from berth.server.api.openapi import PROBLEM
from tests.unit.server.api.conftest import Staffed
from tests.unit.server.api.world import World


async def test_every_refusal_is_a_problem_document(staffed: Staffed) -> None:
    """RFC 9457 members type, title, status, detail; ours: code and hint."""
    root = staffed.tokens["root"]
    for method, path, more, status in (
        ("GET", "/whoami", {}, 401),
        ("GET", "/nowhere", {"token": root}, 404),
        ("PUT", "/whoami", {"token": root}, 405),
        ("POST", "/users", {"token": root, "json": {"name": "X"}}, 400),
        ("POST", "/users", {"token": root, "json": {}}, 422),
        ("POST", "/users", {"token": root, "content": b"{", "headers": {"Content-Type": "application/json"}}, 422),
        ("POST", "/users", {"token": root, "content": b"name=x"}, 422),
        ("POST", "/users", {"token": root, "json": {"name": "x", "admin": True}}, 422),
        ("GET", "/projects/vision", {"token": staffed.tokens["stranger"]}, 404),
        ("GET", "/users", {"token": staffed.tokens["stranger"]}, 403),
        ("POST", "/projects", {"token": root, "json": {"name": "vision"}}, 409),
    ):
        answer = await staffed.world.ask(method, path, **more)
        where = f"{method} {path}: {answer.text}"
        assert answer.status_code == status, where
        assert answer.headers["content-type"] == "application/problem+json", where
        body = answer.json()
        Draft202012Validator(PROBLEM).validate(body)
        assert body["status"] == status, where


def test_a_denial_shows_its_reasons_as_members() -> None:
    error = Denied("It is kept.", reasons=[{"code": "scan.missing", "message": "No scan."}], digest="sha256:1")
    body = problems.problem_of(error)
    assert body["reasons"] == [{"code": "scan.missing", "message": "No scan."}]
    assert (body["digest"], body["detail"], body["status"]) == ("sha256:1", "It is kept.", 403)


def test_facts_of_an_error_never_replace_the_standard_members() -> None:
    error = Unavailable("Later.", detail={"status": 200, "type": "x", "retry_after": 7, "part": "database"})
    answer = problems.response_of(error)
    body = json.loads(bytes(answer.body))
    assert (body["status"], body["type"], body["part"]) == (503, "urn:berth:problem:unavailable", "database")
    assert answer.headers["retry-after"] == "7"


def test_an_unexpected_error_shows_a_number_and_nothing_else() -> None:
    body = json.loads(bytes(problems.unexpected("4f2a").body))
    assert (body["status"], body["code"], body["error_id"]) == (500, "internal", "4f2a")


def test_what_was_sent_is_not_repeated_in_a_validation_error() -> None:
    answer = problems.invalid_fields([{"loc": ("body", "token"), "msg": "too long", "input": "berth_secret"}])
    assert b"berth_secret" not in bytes(answer.body)
    assert json.loads(bytes(answer.body))["errors"] == [{"field": "body.token", "message": "too long"}]


@pytest.mark.parametrize("limit", ["0", "501", "-1", "x", "1e3", "99999999999999999999"])
async def test_a_page_holds_1_to_500_items(staffed: Staffed, limit: str) -> None:
    answer = await staffed.world.ask("GET", f"/users?limit={limit}", token=staffed.tokens["root"])
    assert answer.status_code == 422


async def test_lists_by_name_are_paged_without_gap_or_repetition(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    for number in range(7):
        await world.project(f"p{number}")
        await world.version("vision/" + f"m{number}", "1.0.0")
    for path, key in (
        ("/projects", "name"),
        ("/users", "name"),
        ("/projects/vision/members", "user"),
        ("/projects/vision/models", "name"),
        ("/tokens", "id"),
    ):
        whole = (await world.ask("GET", f"{path}?limit=500", token=root)).json()
        assert whole["next"] is None
        for size in (1, 3, len(whole["items"])):
            seen, query = [], ""
            while True:
                page = (await world.ask("GET", f"{path}?limit={size}{query}", token=root)).json()
                seen += page["items"]
                if page["next"] is None:
                    break
                query = f"&after={page['next']}"
            assert seen == whole["items"], (path, size)
        assert len({item[key] for item in whole["items"]}) == len(whole["items"])


async def test_the_audit_log_is_paged_newest_first(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    for number in range(5):
        await world.ask("PATCH", "/projects/vision", token=root, json={"description": str(number)})
    first = (await world.ask("GET", "/audit?project=vision&limit=3", token=root)).json()
    rest = (await world.ask("GET", f"/audit?project=vision&limit=3&after={first['next']}", token=root)).json()
    assert [item["detail"]["description"] for item in first["items"] + rest["items"]] == ["4", "3", "2", "1", "0"]
    assert rest["next"] is None


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "99999999999999999999", "%C2%B2", "9223372036854775808"])
async def test_a_made_up_cursor_is_refused(staffed: Staffed, after: str) -> None:
    for path in ("/audit", "/tokens"):
        answer = await staffed.world.ask("GET", f"{path}?after={after}", token=staffed.tokens["root"])
        assert (answer.status_code, answer.json()["code"]) == (400, "pagination_invalid")


ODD = ["%00", "a%00b", "%FF", "..%2F..", "%F0%9F%92%A9", "x" * 5000, "' or 1=1 --", "%25", "null", "-1", "%0D%0Ax:%20y"]


@pytest.mark.parametrize("odd", ODD)
async def test_no_odd_name_in_a_path_or_query_breaks_anything(staffed: Staffed, odd: str) -> None:
    root = staffed.tokens["root"]
    await staffed.world.version("vision/net", "1.0.0")
    net = "/projects/vision/models/net"
    for method, path, body in (
        ("GET", f"/projects/{odd}", None),
        ("GET", f"/projects/vision/models/{odd}", None),
        ("GET", f"{net}/versions/{odd}", None),
        ("DELETE", f"{net}/versions/{odd}", None),
        ("PUT", f"{net}/aliases/{odd}", {"version": "1.0.0"}),
        ("GET", f"{net}/aliases/{odd}/history", None),
        ("PUT", f"/projects/vision/members/{odd}", {"role": "guest"}),
        ("DELETE", f"/projects/vision/keys/{odd}", None),
        ("PATCH", f"/users/{odd}", {"disabled": True}),
        ("DELETE", f"/tokens/{odd}", None),
        ("GET", f"/projects?after={odd}", None),
        ("GET", f"/audit?project={odd}", None),
    ):
        answer = await staffed.world.ask(method, path, token=root, json=body)
        assert answer.status_code in (200, 400, 404, 422), f"{method} {path}: {answer.status_code} {answer.text}"


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 100_000])
async def test_no_odd_text_in_a_body_breaks_anything(staffed: Staffed, text: str) -> None:
    await staffed.world.version("vision/net", "1.0.0")
    for method, path, body in (
        ("POST", "/projects", {"name": text}),
        ("POST", "/projects", {"name": "fresh", "description": text}),
        ("POST", "/projects", {"name": "fresh", "policy": {text: 1}}),
        ("POST", "/users", {"name": text}),
        ("POST", "/users", {"name": "u1", "kind": text}),
        ("POST", "/tokens", {"user": text}),
        ("POST", "/tokens", {"user": "root", "name": text}),
        ("POST", "/tokens", {"user": "root", "project": text, "role": "reader"}),
        ("PUT", "/projects/vision/members/stranger", {"role": text}),
        ("POST", "/projects/vision/keys", {"name": text, "public_key": text}),
        ("PUT", "/projects/vision/models/net/aliases/x", {"version": text}),
        ("POST", "/projects/vision/models/net/versions/1.0.0/approval", {"decision": "approved", "note": text}),
        ("PATCH", "/projects/vision/models/net", {"labels": {text: text}}),
    ):
        content = json.dumps(body)
        answer = await staffed.world.ask(
            method,
            path,
            token=staffed.tokens["root"],
            content=content,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code in (400, 404, 422), f"{method} {path}: {answer.status_code} {answer.text[:300]}"


async def test_a_body_over_one_mebibyte_is_refused(staffed: Staffed) -> None:
    answer = await staffed.world.ask(
        "POST", "/projects", token=staffed.tokens["root"], json={"name": "x", "description": "y" * (1 << 20)}
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_healthz_needs_nothing_and_readyz_names_each_part(world: World) -> None:
    assert (await world.ask("GET", "/healthz")).json()["status"] == "ok"
    ready = await world.ask("GET", "/readyz")
    assert ready.status_code == 200
    assert {check["name"]: check["ok"] for check in ready.json()["checks"]} == {
        "database": True,
        "migrations": True,
        "depot": True,
    }


async def test_readyz_says_no_without_a_database(world: World) -> None:
    dead = World(Database("postgresql://nobody@127.0.0.1:1/none"), world.store)
    answer = await dead.ask("GET", "/readyz")
    assert answer.status_code == 503
    assert {check["name"]: check["ok"] for check in answer.json()["checks"]} == {
        "database": False,
        "migrations": False,
        "depot": True,
    }
    assert "127.0.0.1" not in answer.text
    assert (await dead.ask("GET", "/healthz")).status_code == 200
    assert (await dead.ask("GET", "/whoami")).json()["code"] == "unavailable"


async def test_metrics_are_for_who_may_observe_the_service(staffed: Staffed) -> None:
    assert (await staffed.world.ask("GET", "/metrics")).status_code == 401
    assert (await staffed.world.ask("GET", "/metrics", token=staffed.tokens["admin"])).status_code == 403
    answer = await staffed.world.ask("GET", "/metrics", token=staffed.tokens["auditor"])
    assert answer.headers["content-type"].startswith("text/plain")
    assert "# TYPE berth_http_requests_total counter" in answer.text
