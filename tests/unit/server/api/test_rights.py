"""Who may call what: every route with every role, by the hand-written table of design §2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI

from berth.access.roles import ACTIONS
from berth.server import api, metrics
from tests.unit.server.api.conftest import Staffed

ROLES = ("guest", "reader", "developer", "reviewer", "maintainer", "admin")
# Addresses that whoever balances load must read without signing in.
OPEN = {("GET", "/healthz"), ("GET", "/readyz")}

V = "/projects/vision/models/net/versions/1.0.0"
A = "/projects/vision/models/net/aliases"


@dataclass(frozen=True)
class Route:
    """A route below a project: its address in the test's world, the lowest role that may, and whether auditors may."""

    method: str
    template: str
    path: str
    role: str
    auditor: bool = False
    body: Any = None


P = "/projects/{project}"
M = P + "/models/{model}"
R = M + "/versions/{ref}"
PROJECT_ROUTES = [
    Route("GET", P, "/projects/vision", "guest", True),
    Route("PATCH", P, "/projects/vision", "maintainer", body={"description": "new"}),
    Route("DELETE", P, "/projects/vision", "admin"),
    Route("GET", P + "/members", "/projects/vision/members", "guest", True),
    Route("PUT", P + "/members/{user}", "/projects/vision/members/stranger", "maintainer", body={"role": "guest"}),
    Route("DELETE", P + "/members/{user}", "/projects/vision/members/the-guest", "maintainer"),
    Route("GET", P + "/keys", "/projects/vision/keys", "guest", True),
    Route("POST", P + "/keys", "/projects/vision/keys", "maintainer", body={"name": "k", "public_key": "not a key"}),
    Route("DELETE", P + "/keys/{name}", "/projects/vision/keys/k", "maintainer"),
    Route("GET", P + "/models", "/projects/vision/models", "guest", True),
    Route("GET", M, "/projects/vision/models/net", "guest", True),
    Route("PATCH", M, "/projects/vision/models/net", "developer", body={"description": "new"}),
    Route("GET", M + "/versions", "/projects/vision/models/net/versions", "guest", True),
    Route("GET", R, V, "guest", True),
    Route("PATCH", R, V, "developer", body={"overlay": {"description": "new"}}),
    Route("DELETE", R, V, "maintainer"),
    Route("GET", R + "/verdict", V + "/verdict", "reader", True),
    Route("GET", R + "/evidence", V + "/evidence", "reader", True),
    Route("GET", R + "/evidence/{evidence_id}/report", V + "/evidence/1/report", "reader", True),
    Route("GET", R + "/signatures", V + "/signatures", "reader", True),
    Route("GET", R + "/scans", V + "/scans", "reader", True),
    Route("POST", R + "/scans", V + "/scans", "reviewer"),
    Route("POST", R + "/approval", V + "/approval", "reviewer", body={"decision": "approved"}),
    Route("GET", R + "/approval", V + "/approval", "reader", True),
    Route("GET", M + "/aliases", A, "guest", True),
    Route("PUT", M + "/aliases/{alias}", A + "/production", "reviewer", body={"version": "1.0.0"}),
    Route("DELETE", M + "/aliases/{alias}", A + "/production", "reviewer"),
    Route("GET", M + "/aliases/{alias}/history", A + "/production/history", "guest", True),
    Route("POST", M + "/aliases/{alias}/rollback", A + "/production/rollback", "reviewer"),
    Route("GET", R + "/placements", V + "/placements", "guest", True),
    # The right to push to the target is asked for behind the door (test_moving.py).
    Route(
        "POST",
        M + "/promotions",
        "/projects/vision/models/net/promotions",
        "reader",
        body={"versions": "1.0.0", "to": "nowhere/net"},
    ),
    Route("GET", R + "/where", V + "/where", "guest", True),
    Route("POST", R + "/placements/hold", V + "/placements/hold", "maintainer", body={}),
    Route("POST", R + "/placements/release", V + "/placements/release", "maintainer", body={}),
    Route("GET", "/audit", "/audit?project=vision", "maintainer", True),
]
ANYBODY = {"root", "auditor", "maintainer", "stranger"}
# Routes that belong to no project: who may, of root, auditor, maintainer and stranger.
SERVICE_ROUTES: list[tuple[str, str, Any, set[str]]] = [
    ("GET", "/whoami", None, {"root", "auditor", "maintainer", "stranger"}),
    ("GET", "/projects", None, {"root", "auditor", "maintainer", "stranger"}),
    ("GET", "/models/fitting", None, {"root", "auditor", "maintainer", "stranger"}),
    ("POST", "/projects", {"name": "fresh"}, {"root"}),
    ("GET", "/users", None, {"root", "auditor"}),
    ("POST", "/users", {"name": "bob"}, {"root"}),
    ("PATCH", "/users/stranger", {"disabled": False}, {"root"}),
    ("GET", "/tokens", None, {"root", "auditor", "maintainer", "stranger"}),
    ("POST", "/tokens", {"user": "stranger"}, {"root", "stranger"}),
    ("DELETE", "/tokens/999999", None, {"root", "auditor", "maintainer", "stranger"}),
    ("GET", "/audit", None, {"root", "auditor"}),
    ("GET", "/metrics", None, {"root", "auditor"}),
    ("GET", "/registry-kinds", None, {"root"}),
    ("GET", "/registries", None, {"root"}),
    ("POST", "/registries", {"name": "r", "kind": "folder", "url": "file:///srv/models"}, {"root"}),
    ("GET", "/registries/none", None, {"root"}),
    ("PATCH", "/registries/none", {"url": "https://other.example"}, {"root"}),
    ("DELETE", "/registries/none", None, {"root"}),
    ("POST", "/registries/none/probe", {}, {"root"}),
    ("POST", "/registries/none/hook", {}, {"root"}),
    ("DELETE", "/registries/none/hook", None, {"root"}),
    ("GET", "/registries/none/events", None, {"root"}),
    ("GET", "/registries/none/health", None, {"root"}),
    ("GET", "/registries/none/usage?project=vision", None, {"root"}),
    ("POST", "/registries/none/scans", {"reference": "vision/net:1.0.0"}, {"root"}),
    ("GET", "/registries/none/scans?reference=vision/net:1.0.0", None, {"root"}),
    ("GET", "/registries/none/scans/report?reference=vision/net:1.0.0", None, {"root"}),
    ("GET", "/registries/none/scans/log?reference=vision/net:1.0.0", None, {"root"}),
    ("GET", "/registries/none/artifact?reference=vision/net:1.0.0", None, {"root"}),
    ("POST", "/registries/none/check", {"reference": "vision/net:1.0.0"}, {"root"}),
    ("POST", "/registries/none/gc", {}, {"root"}),
    ("GET", "/registries/none/gc/1", None, {"root"}),
    ("GET", "/registries/none/gc/1/log", None, {"root"}),
    ("GET", "/registries/none/projects/vision", None, {"root"}),
    ("PUT", "/registries/none/projects/vision", {}, {"root"}),
    ("GET", "/registries/none/projects/vision/robots", None, {"root"}),
    ("POST", "/registries/none/projects/vision/robots", {"name": "r"}, {"root"}),
    ("DELETE", "/registries/none/projects/vision/robots/1", None, {"root"}),
    ("POST", "/registries/none/projects/vision/robots/1/secret", {}, {"root"}),
    ("POST", "/registries/none/projects/vision/protected-tags", {}, {"root"}),
    ("DELETE", "/registries/none/projects/vision/protected-tags/1", None, {"root"}),
    ("PUT", "/registries/none/projects/vision/retention", {"keep_newest": 1}, {"root"}),
    ("GET", "/registries/none/projects/vision/retention", None, {"root"}),
    ("POST", "/registries/none/projects/vision/retention/runs", {}, {"root"}),
    ("GET", "/registries/none/projects/vision/retention/runs/1", None, {"root"}),
    # Which versions decides who may; the roles are in test_moving.py.
    ("GET", "/export?ref=none/none:1.0.0", None, ANYBODY),
    ("GET", "/export/plan?ref=none/none:1.0.0", None, ANYBODY),
    ("POST", "/import", None, ANYBODY),
    ("POST", "/registries/none/import", {}, {"root"}),
    # Which rule decides who may; the roles are in test_sync.py.
    ("GET", "/sync/rules", None, ANYBODY),
    ("POST", "/sync/rules", {"name": "r", "source": "a", "target": "b", "project": "vision"}, {"root"}),
    ("GET", "/sync/rules/none", None, ANYBODY),
    ("PATCH", "/sync/rules/none", {"enabled": False}, ANYBODY),
    ("DELETE", "/sync/rules/none", None, ANYBODY),
    ("POST", "/sync/rules/none/plan", None, ANYBODY),
    ("POST", "/sync/rules/none/runs", None, ANYBODY),
    ("GET", "/sync/rules/none/runs", None, ANYBODY),
    ("GET", "/sync/rules/none/drift", None, ANYBODY),
    ("GET", "/sync/drift", None, ANYBODY),
    ("GET", "/sync/runs/999999", None, ANYBODY),
    ("GET", "/sync/runs/999999/items", None, ANYBODY),
    ("POST", "/sync/runs/999999/cancel", None, ANYBODY),
]
TEMPLATES = {
    "/export?ref=none/none:1.0.0": "/export",
    "/export/plan?ref=none/none:1.0.0": "/export/plan",
    "/sync/rules/none/drift": "/sync/rules/{rule}/drift",
    "/users/stranger": "/users/{name}",
    "/tokens/999999": "/tokens/{token_id}",
    "/registries/none": "/registries/{name}",
    "/registries/none/probe": "/registries/{name}/probe",
    "/registries/none/hook": "/registries/{name}/hook",
    "/registries/none/events": "/registries/{name}/events",
    "/registries/none/health": "/registries/{name}/health",
    "/registries/none/usage": "/registries/{name}/usage",
    "/registries/none/scans": "/registries/{name}/scans",
    "/registries/none/scans/report": "/registries/{name}/scans/report",
    "/registries/none/scans/log": "/registries/{name}/scans/log",
    "/registries/none/artifact": "/registries/{name}/artifact",
    "/registries/none/check": "/registries/{name}/check",
    "/registries/none/gc": "/registries/{name}/gc",
    "/registries/none/gc/1": "/registries/{name}/gc/{run}",
    "/registries/none/gc/1/log": "/registries/{name}/gc/{run}/log",
    "/registries/none/projects/vision": "/registries/{name}/projects/{managed}",
    "/registries/none/projects/vision/robots": "/registries/{name}/projects/{managed}/robots",
    "/registries/none/projects/vision/robots/1": "/registries/{name}/projects/{managed}/robots/{robot_id}",
    "/registries/none/projects/vision/robots/1/secret": (
        "/registries/{name}/projects/{managed}/robots/{robot_id}/secret"
    ),
    "/registries/none/projects/vision/protected-tags": "/registries/{name}/projects/{managed}/protected-tags",
    "/registries/none/projects/vision/protected-tags/1": (
        "/registries/{name}/projects/{managed}/protected-tags/{rule_id}"
    ),
    "/registries/none/projects/vision/retention": "/registries/{name}/projects/{managed}/retention",
    "/registries/none/projects/vision/retention/runs": "/registries/{name}/projects/{managed}/retention/runs",
    "/registries/none/projects/vision/retention/runs/1": "/registries/{name}/projects/{managed}/retention/runs/{run}",
    "/registries/none/import": "/registries/{name}/import",
    "/sync/rules/none": "/sync/rules/{rule}",
    "/sync/rules/none/plan": "/sync/rules/{rule}/plan",
    "/sync/rules/none/runs": "/sync/rules/{rule}/runs",
    "/sync/runs/999999": "/sync/runs/{run_id}",
    "/sync/runs/999999/items": "/sync/runs/{run_id}/items",
    "/sync/runs/999999/cancel": "/sync/runs/{run_id}/cancel",
}


def declared() -> Iterator[tuple[str, str, dict[str, Any]]]:
    app = FastAPI()
    api.include_all(app)
    app.include_router(metrics.router)
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path.removeprefix("/api/v1"), operation


def test_no_route_without_an_action() -> None:
    found = list(declared())
    assert len(found) > 30
    for method, path, operation in found:
        assert operation.get("x-berth-action") in ACTIONS, f"{method} {path}"


def test_every_route_stands_in_a_table_of_this_file() -> None:
    tabled = {(route.method, route.template) for route in PROJECT_ROUTES}
    tabled |= {
        (method, TEMPLATES.get(path.partition("?")[0], path.partition("?")[0])) for method, path, _, _ in SERVICE_ROUTES
    }
    assert {(method, path) for method, path, _ in declared()} == tabled


def test_every_route_has_summary_tag_and_problem_answers() -> None:
    identifiers = []
    for method, path, operation in declared():
        where = f"{method} {path}"
        identifiers.append(operation["operationId"])
        assert operation["summary"], where
        assert operation["tags"], where
        for status in ("401", "403", "404", "422"):
            assert list(operation["responses"][status]["content"]) == ["application/problem+json"], where
    assert len(set(identifiers)) == len(identifiers)


@pytest.fixture
async def filled(staffed: Staffed) -> Staffed:
    await staffed.world.version("vision/net", "1.0.0")
    return staffed


@pytest.mark.parametrize("route", PROJECT_ROUTES, ids=lambda route: f"{route.method} {route.template}")
async def test_a_project_route_answers_each_role_by_the_table(filled: Staffed, route: Route) -> None:
    world = filled.world
    lowest = ROLES.index(route.role)
    for role in reversed(ROLES[:lowest]):
        answer = await world.ask(route.method, route.path, token=filled.tokens[role], json=route.body)
        assert answer.status_code == 403, f"{role}: {answer.text}"
        assert answer.json()["code"] == "forbidden"
    refused = len(await world.audited(outcome="denied"))
    assert refused == lowest

    anonymous = await world.ask(route.method, route.path, json=route.body)
    assert anonymous.status_code == 401
    assert "Bearer" in anonymous.headers["www-authenticate"]

    stranger = await world.ask(route.method, route.path, token=filled.tokens["stranger"], json=route.body)
    missing = await world.ask(
        route.method, route.path.replace("vision", "secrxt"), token=filled.tokens["stranger"], json=route.body
    )
    assert stranger.status_code == missing.status_code == 404
    assert stranger.content.replace(b"vision", b"secrxt") == missing.content
    assert stranger.headers.raw == missing.headers.raw

    auditor = await world.ask(route.method, route.path, token=filled.tokens["auditor"], json=route.body)
    assert (auditor.status_code != 403) is route.auditor, auditor.text

    for role in reversed(ROLES[lowest:]):
        answer = await world.ask(route.method, route.path, token=filled.tokens[role], json=route.body)
        # What lies behind the door may be missing or in conflict; the door itself is open.
        assert answer.status_code not in (401, 403, 500), f"{role}: {answer.text}"


@pytest.mark.parametrize(
    ("method", "path", "body", "allowed"), SERVICE_ROUTES, ids=[f"{m} {p}" for m, p, _, _ in SERVICE_ROUTES]
)
async def test_a_service_route_answers_by_the_table(
    staffed: Staffed, method: str, path: str, body: Any, allowed: set[str]
) -> None:
    for who in ("stranger", "maintainer", "auditor", "root"):
        answer = await staffed.world.ask(method, path, token=staffed.tokens[who], json=body)
        assert answer.status_code != 500
        assert (answer.status_code != 403) is (who in allowed), f"{who}: {answer.status_code} {answer.text}"
    assert (await staffed.world.ask(method, path, json=body)).status_code == 401


async def test_deprecating_takes_more_than_editing_words(filled: Staffed) -> None:
    body = {"deprecated": True}
    assert (await filled.world.ask("PATCH", V, token=filled.tokens["developer"], json=body)).status_code == 403
    assert (await filled.world.ask("PATCH", V, token=filled.tokens["maintainer"], json=body)).status_code == 200


async def test_missing_and_forbidden_projects_are_byte_equal_for_any_name(filled: Staffed) -> None:
    token = filled.tokens["guest"]
    hidden = await filled.world.ask("GET", "/projects/secret", token=token)
    missing = await filled.world.ask("GET", "/projects/nobody", token=token)
    assert hidden.status_code == missing.status_code == 404
    assert hidden.json()["code"] == "name_unknown"
    assert hidden.content.replace(b"secret", b"nobody") == missing.content
    assert {k: v for k, v in hidden.headers.items()} == {k: v for k, v in missing.headers.items()}
