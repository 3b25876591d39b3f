"""The SDK's REST side: paths, pages, errors (the agreed REST API; RFC 9457)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from berth.client import Berth, Verdict
from berth.client.address import parse
from berth.client.versions import Versions
from berth.errors import (
    BerthError,
    Denied,
    Forbidden,
    InvalidInput,
    NameInvalid,
    NotFound,
    RemoteError,
    Unauthenticated,
    Unavailable,
    VersionTaken,
)

BASE = "/api/v1/projects/ml/models/demo"
DIGEST = "sha256:" + "a" * 64


class Service:
    """Answers from a list of (status, body) in order; the last one again and again."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(body, Exception):
            raise body
        return httpx.Response(status, content=body if isinstance(body, bytes) else json.dumps(body).encode())

    def lines(self) -> list[str]:
        return [f"{r.method} {r.url.raw_path.decode()}" for r in self.asked]


def sdk(service: Service) -> Berth:
    berth = Berth("http://127.0.0.1:8080", "secret", transport=httpx.MockTransport(service))
    berth._session._sleep = lambda _: None
    return berth


CALLS = [
    (lambda b: b.whoami(), "GET /api/v1/whoami", None),
    (
        lambda b: b.projects.create("ml", policy="scanned"),
        "POST /api/v1/projects",
        {"name": "ml", "policy": "scanned"},
    ),
    (lambda b: b.projects.show("ml"), "GET /api/v1/projects/ml", None),
    (lambda b: b.projects.set("ml", policy="open"), "PATCH /api/v1/projects/ml", {"policy": "open"}),
    (lambda b: b.projects.rm("ml"), "DELETE /api/v1/projects/ml", None),
    (
        lambda b: b.members.set("ml", "al/ice", "developer"),
        "PUT /api/v1/projects/ml/members/al%2Fice",
        {"role": "developer"},
    ),
    (lambda b: b.members.rm("ml", "alice"), "DELETE /api/v1/projects/ml/members/alice", None),
    (
        lambda b: b.keys.trust("ml", "release", "PEM"),
        "POST /api/v1/projects/ml/keys",
        {"name": "release", "public_key": "PEM"},
    ),
    (lambda b: b.keys.untrust("ml", "release"), "DELETE /api/v1/projects/ml/keys/release", None),
    (lambda b: b.users.add("ci", kind="robot"), "POST /api/v1/users", {"name": "ci", "kind": "robot"}),
    (lambda b: b.users.disable("ci"), "PATCH /api/v1/users/ci", {"disabled": True}),
    (
        lambda b: b.tokens.create("ci", project="ml", role="developer", expires_in_days=3),
        "POST /api/v1/tokens",
        {"user": "ci", "project": "ml", "role": "developer", "expires_in_days": 3},
    ),
    (lambda b: b.tokens.revoke(7), "DELETE /api/v1/tokens/7", None),
    (lambda b: b.models.show("ml/demo"), f"GET {BASE}", None),
    (lambda b: b.models.set("ml/demo", description="x"), f"PATCH {BASE}", {"description": "x"}),
    (lambda b: b.versions.show("ml/demo:1.0.0+gpu"), f"GET {BASE}/versions/1.0.0%2Bgpu", None),
    (lambda b: b.versions.show("ml/demo:^1.2"), f"GET {BASE}/versions/%5E1.2", None),
    (lambda b: b.versions.show("ml/demo"), f"GET {BASE}/versions/latest", None),
    (lambda b: b.versions.show(f"ml/demo:1.0.0@{DIGEST}"), f"GET {BASE}/versions/sha256%3A{'a' * 64}", None),
    (lambda b: b.versions.show("127.0.0.1:8080/ml/demo:1.0.0"), f"GET {BASE}/versions/1.0.0", None),
    (lambda b: b.versions.deprecate("ml/demo:1.0.0"), f"PATCH {BASE}/versions/1.0.0", {"deprecated": True}),
    (lambda b: b.versions.rm("ml/demo:1.0.0"), f"DELETE {BASE}/versions/1.0.0", None),
    (lambda b: b.versions.rescan("ml/demo:1.0.0"), f"POST {BASE}/versions/1.0.0/scans", {}),
    (
        lambda b: b.versions.decide("ml/demo:1.0.0", "approved", note="fine"),
        f"POST {BASE}/versions/1.0.0/approval",
        {"decision": "approved", "note": "fine"},
    ),
    (lambda b: b.versions.report("ml/demo:1.0.0", 12), f"GET {BASE}/versions/1.0.0/evidence/12/report", None),
    (lambda b: b.aliases.set("ml/demo", "prod", "1.0.0"), f"PUT {BASE}/aliases/prod", {"version": "1.0.0"}),
    (lambda b: b.aliases.rm("ml/demo", "prod"), f"DELETE {BASE}/aliases/prod", None),
    (lambda b: b.aliases.rollback("ml/demo", "prod"), f"POST {BASE}/aliases/prod/rollback", {}),
]


@pytest.mark.parametrize(("call", "line", "body"), CALLS, ids=[c[1] for c in CALLS])
def test_a_call_is_the_agreed_request(call: Any, line: str, body: Any) -> None:
    service = Service((200, {"ok": True}))
    call(sdk(service))
    assert service.lines() == [line]
    assert service.asked[0].headers["authorization"] == "Bearer secret"
    assert (json.loads(service.asked[0].content) if service.asked[0].content else None) == body


LISTS = [
    (lambda b: b.projects.ls(), "/api/v1/projects"),
    (lambda b: b.members.ls("ml"), "/api/v1/projects/ml/members"),
    (lambda b: b.keys.ls("ml"), "/api/v1/projects/ml/keys"),
    (lambda b: b.users.ls(), "/api/v1/users"),
    (lambda b: b.tokens.ls(), "/api/v1/tokens"),
    (lambda b: b.models.ls("ml"), "/api/v1/projects/ml/models"),
    (lambda b: b.versions.ls("ml/demo"), f"{BASE}/versions"),
    (lambda b: b.versions.evidence("ml/demo:1.0.0"), f"{BASE}/versions/1.0.0/evidence"),
    (lambda b: b.versions.signatures("ml/demo:1.0.0"), f"{BASE}/versions/1.0.0/signatures"),
    (lambda b: b.versions.approvals("ml/demo:1.0.0"), f"{BASE}/versions/1.0.0/approval"),
    (lambda b: b.aliases.ls("ml/demo"), f"{BASE}/aliases"),
    (lambda b: b.aliases.history("ml/demo", "prod"), f"{BASE}/aliases/prod/history"),
    (lambda b: b.audit.ls(), "/api/v1/audit"),
]


@pytest.mark.parametrize(("call", "path"), LISTS, ids=[c[1] for c in LISTS])
def test_every_page_of_a_list_is_fetched(call: Any, path: str) -> None:
    service = Service((200, {"items": [{"n": 1}], "next": "c1"}), (200, {"items": [{"n": 2}], "next": None}))
    assert call(sdk(service)) == [{"n": 1}, {"n": 2}]
    assert [r.url.path for r in service.asked] == [path, path]
    assert dict(service.asked[1].url.params) == {"limit": "500", "after": "c1"}


def test_a_limit_ends_a_list() -> None:
    service = Service((200, {"items": [{"n": 1}, {"n": 2}], "next": "more"}))
    assert sdk(service).projects.ls(limit=2) == [{"n": 1}, {"n": 2}]
    assert len(service.asked) == 1


def problem(status: int, code: str, **more: Any) -> tuple[int, Any]:
    return status, {"type": "about:blank", "title": "T", "status": status, "detail": "What.", "code": code, **more}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(409, "version_taken", hint="Bump it."), VersionTaken),
        (problem(404, "not_found"), NotFound),
        (problem(403, "forbidden"), Forbidden),
        (problem(401, "unauthenticated"), Unauthenticated),
        (problem(422, "invalid_input"), InvalidInput),
        (problem(403, "a_code_of_the_future"), Forbidden),
        ((500, b"<html>proxy</html>"), RemoteError),
        ((404, b""), NotFound),
        ((302, b""), RemoteError),
        ((200, b"not json"), RemoteError),
        ((200, [1]), RemoteError),
    ],
)
def test_an_answer_becomes_the_error_it_stands_for(answer: tuple[int, Any], kind: type[BerthError]) -> None:
    with pytest.raises(kind) as caught:
        sdk(Service(answer)).whoami()
    if isinstance(answer[1], dict):
        assert caught.value.message == "What."
        assert caught.value.hint == answer[1].get("hint") or isinstance(caught.value, Unauthenticated)


def test_a_denial_keeps_its_reasons() -> None:
    reasons = [{"code": "unsigned", "message": "No signature."}, {"code": "unapproved", "message": "No approval."}]
    service = Service(problem(403, "denied", reasons=reasons, digest=DIGEST))
    with pytest.raises(Denied) as caught:
        sdk(service).aliases.set("ml/demo", "prod", "1.0.0")
    assert caught.value.reasons == reasons
    assert caught.value.detail["digest"] == DIGEST


def test_reading_is_repeated_while_the_service_restarts_and_writing_is_not() -> None:
    restarting = Service(problem(503, "unavailable"), (200, httpx.ReadError("gone")), (200, {"name": "alice"}))
    assert sdk(restarting).whoami() == {"name": "alice"}
    writing = Service(problem(503, "unavailable"))
    with pytest.raises(Unavailable):
        sdk(writing).projects.create("ml")
    assert len(writing.asked) == 1


def test_a_service_that_is_not_there_is_named() -> None:
    with pytest.raises(Unavailable, match="http://127.0.0.1:8080") as caught:
        sdk(Service((200, httpx.ConnectError("refused")))).whoami()
    assert caught.value.hint is not None
    assert "BERTH_URL" in caught.value.hint


def test_a_model_of_another_registry_is_not_asked_of_this_one() -> None:
    service = Service((200, {}))
    with pytest.raises(NameInvalid, match="other.example"):
        sdk(service).versions.show("other.example/ml/demo:1.0.0")
    assert service.asked == []


def test_the_verdict_has_every_reason() -> None:
    body = {"digest": DIGEST, "verdict": "deny", "valid_until": None, "reasons": [{"code": "x", "message": "y"}]}
    verdict = sdk(Service((200, body))).versions.verdict("ml/demo:1.0.0")
    assert verdict == Verdict(DIGEST, "deny", None, ({"code": "x", "message": "y"},), body)
    assert not verdict.allowed
    with pytest.raises(RemoteError):
        sdk(Service((200, {"verdict": "allow"}))).versions.verdict("ml/demo:1.0.0")


def test_waiting_ends_when_the_scans_have_ended() -> None:
    allow = {"digest": DIGEST, "verdict": "allow", "valid_until": None, "reasons": []}
    service = Service(
        (200, {"pending": ["weights"], "done": False}), (200, {"pending": [], "done": True}), (200, allow)
    )
    told: list[Any] = []
    berth = sdk(service)
    versions = Versions(berth._session, sleep=lambda _: None, clock=lambda: 0.0)
    assert versions.wait("ml/demo:1.0.0", timeout=60, tell=told.append).allowed
    assert [state["done"] for state in told] == [False, True]


def test_waiting_ends_at_the_timeout_and_names_what_is_pending() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    berth = sdk(Service((200, {"pending": [{"kind": "weights"}], "done": False})))
    versions = Versions(berth._session, sleep=sleep, clock=lambda: now)
    with pytest.raises(Unavailable, match="weights after 30 s"):
        versions.wait("ml/demo:1.0.0", timeout=30)
    assert now == pytest.approx(30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ml/demo", ("ml", "demo", None, None)),
        ("ml/demo:1.0.0-rc.1+gpu", ("ml", "demo", "1.0.0-rc.1+gpu", None)),
        ("localhost:8080/ml/demo:production", ("ml", "demo", "production", "localhost:8080")),
        (f"ml/demo@{DIGEST}", ("ml", "demo", DIGEST, None)),
        (f"ml/demo:1.0.0@{DIGEST}", ("ml", "demo", DIGEST, None)),
    ],
)
def test_a_reference_is_read(text: str, expected: tuple[Any, ...]) -> None:
    found = parse(text)
    assert (found.project, found.model, found.ref, found.registry) == expected


@pytest.mark.parametrize("text", ["demo", "a/b/c/d", "ML/demo", "ml/demo:", "ml//demo", "", "ml/demo@sha256:short"])
def test_a_reference_that_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse(text)


@pytest.mark.parametrize(
    "url", ["berth.example", "ftp://x", "http://a/b", "http://u:p@x", "https://", "http://x:99999"]
)
def test_an_address_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        Berth(url)
