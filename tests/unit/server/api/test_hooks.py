"""Deliveries of other registries: who may send them, how often they count, and what is never told to strangers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from berth.jobs import forget_registry_events
from berth.jobs.context import JobContext
from tests.contracts.registries.harbor_double import PASSWORD, USER, HarborDouble
from tests.contracts.registries.test_hosted_notifications import AWS, GITHUB, GOOGLE, HUB, ZOT, ZOT_HEADERS
from tests.contracts.registries.test_notifications import ENVELOPE, HARBOR
from tests.unit.server.api.conftest import Staffed
from tests.unit.wire.peer import running

DISTRIBUTION = {"name": "hub", "kind": "distribution", "url": "https://registry.example"}


@pytest.fixture
async def staff(staffed: Staffed) -> Staffed:
    added = await staffed.world.ask("POST", "/registries", token=staffed.tokens["root"], json=DISTRIBUTION)
    assert added.status_code == 201, added.text
    return staffed


async def hook(staff: Staffed, name: str = "hub", **body: Any) -> Any:
    return await staff.world.ask("POST", f"/registries/{name}/hook", token=staff.tokens["root"], json=body)


async def deliver(staff: Staffed, authorization: str | None, body: Any = ENVELOPE, name: str = "hub") -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {} if authorization is None else {"Authorization": authorization}
    return await staff.world.ask("POST", f"/hooks/{name}", content=content, headers=headers)


async def events(staff: Staffed, query: str = "") -> Any:
    return (await staff.world.ask("GET", f"/registries/hub/events{query}", token=staff.tokens["root"])).json()


async def jobs(staff: Staffed) -> int:
    async with staff.world.database.reading() as conn:
        query = "select count(*) from procrastinate_jobs where task_name = 'take_registry_events'"
        return int(await conn.scalar(text(query)) or 0)


async def test_the_secret_is_shown_once_stored_sealed_and_audited(staff: Staffed) -> None:
    made = (await hook(staff)).json()
    secret = made["secret"]
    assert made["authorization"] == f"Bearer {secret}"
    assert made["address"] == "http://berth.test/hooks/hub"
    assert (await hook(staff)).json()["secret"] is None
    shown = await staff.world.ask("GET", "/registries/hub", token=staff.tokens["root"])
    assert shown.json()["has_hook"] is True
    assert secret not in shown.text + repr(await staff.world.audited(action="registry.manage"))
    async with staff.world.database.reading() as conn:
        stored = await conn.scalar(text("select hook_secret from registries"))
    assert secret.encode() not in bytes(stored)
    audited = await staff.world.audited(action="registry.manage", object="hub")
    assert [row.detail.get("hook") for row in audited] == ["made", None]


async def test_a_delivery_counts_once_however_often_it_comes(staff: Staffed) -> None:
    header = (await hook(staff)).json()["authorization"]
    first = await deliver(staff, header)
    assert (first.status_code, first.json()) == (202, {"new": 2, "repeated": 0, "foreign": 0})
    for times in (1, 2):
        again = await deliver(staff, header)
        assert (again.status_code, again.json()) == (202, {"new": 0, "repeated": 2, "foreign": 0}), times
    items = (await events(staff))["items"]
    assert [(e["action"], e["repository"], e["deliveries"], e["state"]) for e in items] == [
        ("deleted", "lab/demo", 3, "new"),
        ("pushed", "lab/demo", 3, "new"),
    ]
    assert await jobs(staff) == 1, "one job takes up all that waits"


async def test_events_that_overtake_each_other_are_both_kept(staff: Staffed) -> None:
    header = (await hook(staff)).json()["authorization"]
    later, earlier = [{"events": [ENVELOPE["events"][n]]} for n in (2, 0)]
    assert (await deliver(staff, header, later)).json()["new"] == 1
    assert (await deliver(staff, header, earlier)).json()["new"] == 1
    assert (await deliver(staff, header, later)).json()["repeated"] == 1


async def test_without_the_secret_nobody_learns_whether_a_registry_is_known(staff: Staffed) -> None:
    header = (await hook(staff)).json()["authorization"]
    await staff.world.ask("POST", "/registries", token=staff.tokens["root"], json={**DISTRIBUTION, "name": "unhooked"})
    answers = [
        await deliver(staff, None),
        await deliver(staff, "Bearer wrong"),
        await deliver(staff, header + "x"),
        await deliver(staff, header, name="unhooked"),
        await deliver(staff, header, name="unknown"),
        await deliver(staff, "", name="unknown"),
        await deliver(staff, header, name="a%00b"),
        await deliver(staff, f"Bearer {staff.tokens['root']}"),
    ]
    assert {a.status_code for a in answers} == {401}
    assert len({a.content for a in answers}) == 1
    assert len({tuple(a.headers.raw) for a in answers}) == 1
    assert (await events(staff))["items"] == []
    assert (await deliver(staff, header)).status_code == 202


async def test_all_forms_in_which_registries_carry_a_secret_are_taken(staff: Staffed) -> None:
    secret = (await hook(staff)).json()["secret"]
    basic = base64.b64encode(f"berth:{secret}".encode()).decode()
    for form in (secret, f"Bearer {secret}", f"bearer {secret}", f"Basic {basic}"):
        assert (await deliver(staff, form)).status_code == 202, form
    for form in (f"Basic {secret}", "Basic !!", f"Token {secret}"):
        assert (await deliver(staff, form)).status_code == 401, form


async def test_a_new_secret_ends_the_old_one_and_removal_ends_both(staff: Staffed) -> None:
    old = (await hook(staff)).json()["authorization"]
    new = (await hook(staff, anew=True)).json()["authorization"]
    assert (await deliver(staff, old)).status_code == 401
    assert (await deliver(staff, new)).status_code == 202
    for _ in range(2):
        gone = await staff.world.ask("DELETE", "/registries/hub/hook", token=staff.tokens["root"])
        assert gone.status_code == 204
    assert (await deliver(staff, new)).status_code == 401


@pytest.mark.parametrize(
    ("body", "status"), [(b"not json", 400), (b"{}", 400), (b" " * (1024 * 1024 + 1), 413), (b'{"events": []}', 202)]
)
async def test_what_is_unreadable_or_without_end_is_refused(staff: Staffed, body: bytes, status: int) -> None:
    header = (await hook(staff)).json()["authorization"]
    assert (await deliver(staff, header, body)).status_code == status
    assert await jobs(staff) == 0


@pytest.mark.parametrize(
    "odd", [{"timestamp": "9999-12-31T23:59:59-14:00"}, {"target": {"tag": "\ud800"}}, {"target": {"tag": "\0"}}]
)
async def test_what_cannot_be_stored_is_left_out_and_the_rest_is_taken(staff: Staffed, odd: dict[str, Any]) -> None:
    made = (await hook(staff)).json()
    event = ENVELOPE["events"][0]
    changed = event | odd | {"target": event["target"] | odd.get("target", {})}
    answer = await deliver(staff, made["authorization"], {"events": [changed]})
    assert (answer.status_code, answer.json()["new"]) == (202, 1)


async def test_strangers_do_not_make_us_read_their_body(staff: Staffed) -> None:
    """The secret is in the head: a body of any size is not looked at before."""
    assert (await deliver(staff, "Bearer wrong", b" " * (2 * 1024 * 1024))).status_code == 401


async def added(staff: Staffed, name: str, kind: str, **options: str) -> None:
    body = {"name": name, "kind": kind, "url": "https://registry.example", "options": options}
    answer = await staff.world.ask("POST", "/registries", token=staff.tokens["root"], json=body)
    assert answer.status_code == 201, answer.text


async def test_where_no_header_can_be_set_the_address_holds_the_secret(staff: Staffed) -> None:
    await added(staff, "docker", "hub")
    made = (await hook(staff, "docker")).json()
    assert made["address"] == f"http://berth.test/hooks/docker?token={made['secret']}"
    assert made["authorization"] is None
    again = (await hook(staff, "docker")).json()
    assert (again["address"], again["secret"]) == ("http://berth.test/hooks/docker", None)
    body = json.dumps(HUB).encode()
    for token, status in ((made["secret"], 202), ("", 401), (made["secret"] + "x", 401), ("%00", 401)):
        answer = await staff.world.ask("POST", f"/hooks/docker?token={token}", content=body)
        assert answer.status_code == status, (token, answer.text)
    assert (await staff.world.ask("POST", "/hooks/docker", content=body)).status_code == 401


async def test_github_signs_what_it_sends(staff: Staffed) -> None:
    await added(staff, "gh", "ghcr", prefix="acme")
    made = (await hook(staff, "gh")).json()
    assert (made["authorization"], made["address"]) == (None, "http://berth.test/hooks/gh")
    secret, body = made["secret"], json.dumps(GITHUB).encode()

    async def signed(key: str, content: bytes, *, of: bytes | None = None, name: str = "gh") -> Any:
        signature = hmac.new(key.encode(), content if of is None else of, hashlib.sha256).hexdigest()
        headers = {"X-Hub-Signature-256": f"sha256={signature}", "X-GitHub-Event": "registry_package"}
        headers["X-GitHub-Delivery"] = "72d3162e-cc78-11e3-81ab-4c9367dc0958"
        return await staff.world.ask("POST", f"/hooks/{name}", content=content, headers=headers)

    taken = await signed(secret, body)
    assert (taken.status_code, taken.json()) == (202, {"new": 1, "repeated": 0, "foreign": 0})
    assert (await signed(secret, body)).json()["repeated"] == 1, "GitHub's own id tells that it is the same"
    refused = [
        await signed("another secret", body),
        await signed(secret, body + b" ", of=body),
        await signed(secret, body, name="unknown"),
        await signed("", body, name="unknown"),
    ]
    assert [answer.status_code for answer in refused] == [401] * 4
    assert len({answer.content for answer in refused}) == 1
    assert (await signed(secret, b"not json")).status_code == 400
    assert (await signed("another secret", b"x" * (1024 * 1024 + 1))).status_code == 413


@pytest.mark.parametrize(
    ("kind", "options", "body", "headers"),
    [
        ("ecr", {"account": "123456789012", "region": "eu-west-1"}, AWS, {}),
        ("google", {"prefix": "acme/models"}, GOOGLE, {}),
        ("zot", {}, ZOT, ZOT_HEADERS),
    ],
)
async def test_what_other_kinds_tell_leads_to_the_same_events(
    staff: Staffed, kind: str, options: dict[str, str], body: Any, headers: dict[str, str]
) -> None:
    await added(staff, "other", kind, **options)
    secret = (await hook(staff, "other")).json()["secret"]
    # EventBridge and zot send user and password as Basic.
    basic = base64.b64encode(f"berth:{secret}".encode()).decode()
    sent = {**headers, "Authorization": f"Basic {basic}"}
    content = json.dumps(body).encode()
    taken = await staff.world.ask("POST", "/hooks/other", content=content, headers=sent)
    assert (taken.status_code, taken.json()) == (202, {"new": 1, "repeated": 0, "foreign": 0}), taken.text
    listed = await staff.world.ask("GET", "/registries/other/events", token=staff.tokens["root"])
    [event] = listed.json()["items"]
    assert (event["action"], event["repository"], event["tag"]) == ("pushed", "lab/demo", "1.0.0")
    assert (await staff.world.ask("POST", "/hooks/other", content=b"{}", headers=sent)).status_code == 400


async def test_a_kind_that_tells_nothing_gets_no_hook(staff: Staffed) -> None:
    other = {"name": "other", "kind": "berth", "url": "https://berth.example"}
    await staff.world.ask("POST", "/registries", token=staff.tokens["root"], json=other)
    refused = await hook(staff, "other")
    assert (refused.status_code, refused.json()["code"]) == (405, "unsupported")
    assert "schedule" in refused.json()["hint"]


async def test_harbor_is_told_where_to_deliver_and_what_it_sends_is_taken(staff: Staffed) -> None:
    double = HarborDouble("ml")
    async with running(double) as peer:
        body = {"name": "harbor", "kind": "harbor", "url": peer.url, "username": USER, "secret": PASSWORD}
        added = await staff.world.ask(
            "POST", "/registries", token=staff.tokens["root"], json={**body, "options": {"prefix": "ml"}}
        )
        assert added.status_code == 201, added.text
        made = await hook(staff, "harbor", projects=["vision"], address="https://berth.example/hooks/harbor")
        again = await hook(
            staff, "harbor", projects=["vision"], address="https://berth.example/hooks/harbor", pulls=True
        )
    assert made.json()["installed"] == [{"project": "vision", "added": True}]
    assert again.json()["installed"] == [{"project": "vision", "added": False}]
    assert double.mistakes == []
    [policy] = double.projects["ml"].webhooks
    [target] = policy["targets"]
    assert target["address"] == "https://berth.example/hooks/harbor"
    assert "PULL_ARTIFACT" in policy["event_types"]
    # Harbor sends `auth_header` verbatim as Authorization.
    assert (await deliver(staff, target["auth_header"], HARBOR, "harbor")).json()["new"] == 1


async def test_a_hook_that_cannot_be_set_up_from_here_says_what_to_do_there(staff: Staffed) -> None:
    refused = await hook(staff, projects=["vision"])
    assert refused.status_code == 405
    assert "http://berth.test/hooks/hub" in refused.json()["hint"]


async def test_events_are_paged_and_forgotten_after_two_weeks(staff: Staffed) -> None:
    header = (await hook(staff)).json()["authorization"]
    await deliver(staff, header)
    first = await events(staff, "?limit=1")
    second = await events(staff, f"?limit=1&after={first['next']}")
    assert [e["action"] for e in first["items"] + second["items"]] == ["deleted", "pushed"]
    world = staff.world
    for ahead, left in ((timedelta(days=13), 2), (timedelta(days=15), 0)):
        context = JobContext(
            db=world.database,
            store=world.store,
            vulnerability_scanner=None,  # type: ignore[arg-type]
            weight_scanner=None,  # type: ignore[arg-type]
            settings=world.services.settings,
            now=lambda ahead=ahead: world.clock() + ahead,  # type: ignore[misc]
        )
        await forget_registry_events.run(context)
        assert len((await events(staff))["items"]) == left


async def test_rules_start_by_events_of_a_registry_only(staff: Staffed) -> None:
    rule = {"name": "in", "source": "hub", "target": "depot", "project": "vision", "on_event": True}
    root = staff.tokens["root"]
    made = await staff.world.ask("POST", "/sync/rules", token=root, json=rule)
    assert (made.status_code, made.json()["on_event"]) == (201, True)
    wrong = {**rule, "name": "out", "source": "depot", "target": "hub"}
    assert (await staff.world.ask("POST", "/sync/rules", token=root, json=wrong)).status_code == 400
