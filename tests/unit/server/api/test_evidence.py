"""Verdicts, evidence, reports, signatures, approvals and keys over the API."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from berth.adapters.scanners.contract import ScanResult, SeverityCount, Summary
from berth.catalog import record
from berth.gates.evidence import record_scan
from tests.unit.server.api.conftest import Staffed
from tests.unit.server.api.world import World

MODEL = "/projects/strict/models/net"
VERSION = MODEL + "/versions/1.0.0"
REPORT = b'{"Results": [{"note": "<script>alert(1)</script>"}]}'


@pytest.fixture
async def kept(staffed: Staffed) -> Staffed:
    """Project `strict` with the-reader, the-reviewer and the-maintainer, and one version that nobody has looked at."""
    await staffed.world.project("strict", "strict")
    for role in ("reader", "reviewer", "maintainer"):
        await staffed.world.member("strict", f"the-{role}", role)
    await staffed.world.version("strict/net", "1.0.0")
    return staffed


async def scan(world: World, digest: str, kind: str, *, severities: dict[str, SeverityCount] | None = None) -> int:
    now = world.clock.now
    stored = await world.store.put_bytes(REPORT)
    empty = await world.store.put_bytes(b"{}")
    result = ScanResult(
        kind=kind,  # type: ignore[arg-type]
        status="ok",
        summary=Summary(severities=severities or {}),
        tool="trivy",
        tool_version="0.76.0",
        database={"updated_at": now.strftime("%Y-%m-%dT%H:%M:%SZ")},
        report=REPORT,
        report_media_type="application/json",
        log="",
        started_at=now - timedelta(seconds=5),
        finished_at=now,
    )
    async with world.database.transaction() as conn:
        await record.pin_empty_config(conn, empty)
        return await record_scan(conn, digest=digest, result=result, report=stored, now=now)


async def digest_of(kept: Staffed) -> str:
    return str((await kept.world.ask("GET", VERSION, token=kept.tokens["reader"])).json()["digest"])


def public_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


async def test_a_verdict_tells_what_is_missing(kept: Staffed) -> None:
    verdict = (await kept.world.ask("GET", VERSION + "/verdict", token=kept.tokens["reader"])).json()
    assert verdict["verdict"] == "deny"
    assert verdict["digest"] == await digest_of(kept)
    assert {reason["code"] for reason in verdict["reasons"]} == {
        "scan.missing",
        "weights.missing",
        "signature.missing",
        "approval.missing",
    }
    assert all(reason["message"] for reason in verdict["reasons"])
    assert verdict["policy_hash"]
    assert verdict["evidence_hash"]


async def test_a_version_passes_when_all_is_there_and_falls_back_when_approval_is_revoked(kept: Staffed) -> None:
    world, maintainer = kept.world, kept.tokens["maintainer"]
    policy = {"preset": "strict", "required_signatures": 0}
    assert (await world.ask("PATCH", "/projects/strict", token=maintainer, json={"policy": policy})).status_code == 200
    digest = await digest_of(kept)
    await scan(world, digest, "vulnerabilities", severities={"LOW": SeverityCount(2, 1)})
    await scan(world, digest, "weights")

    async def verdict() -> tuple[str, set[str]]:
        body = (await world.ask("GET", VERSION + "/verdict", token=kept.tokens["reader"])).json()
        return body["verdict"], {reason["code"] for reason in body["reasons"]}

    assert await verdict() == ("deny", {"approval.missing"})
    decide = VERSION + "/approval"
    yes = await world.ask("POST", decide, token=kept.tokens["reviewer"], json={"decision": "approved", "note": "ok"})
    assert (yes.status_code, yes.json()["principal"]) == (201, "the-reviewer")
    assert (await verdict())[0] == "allow"
    shown = (await world.ask("GET", MODEL + "/versions/latest", token=kept.tokens["reader"])).json()
    assert (shown["version"], shown["verdict"], shown["approval"]) == ("1.0.0", "allow", "approved")

    await world.ask("POST", decide, token=kept.tokens["reviewer"], json={"decision": "revoked"})
    outcome, codes = await verdict()
    assert outcome == "deny"
    assert "approval.revoked" in codes
    history = (await world.ask("GET", decide, token=kept.tokens["reader"])).json()["items"]
    assert [(item["decision"], item["note"]) for item in history] == [("revoked", ""), ("approved", "ok")]
    assert len(await world.audited(action="version.approve", outcome="done")) == 2


async def test_time_alone_turns_a_verdict(kept: Staffed) -> None:
    world = kept.world
    body = {"policy": "scanned"}
    await world.ask("PATCH", "/projects/strict", token=kept.tokens["maintainer"], json=body)
    digest = await digest_of(kept)
    await scan(world, digest, "vulnerabilities", severities={"LOW": SeverityCount(1, 0)})
    await scan(world, digest, "weights")
    path, token = VERSION + "/verdict", kept.tokens["reader"]
    before = (await world.ask("GET", path, token=token)).json()
    assert before["verdict"] == "allow"
    assert before["valid_until"] == (world.clock.now + timedelta(days=30)).isoformat().replace("+00:00", "Z")
    world.clock.forward(days=31)
    listed = (await world.ask("GET", MODEL + "/versions", token=token)).json()["items"]
    assert [item["verdict"] for item in listed] == ["deny"]
    after = (await world.ask("GET", path, token=token)).json()
    assert after["verdict"] == "deny"
    assert {"scan.stale", "weights.stale"} & {reason["code"] for reason in after["reasons"]}


async def test_evidence_is_listed_newest_first_and_paged(kept: Staffed) -> None:
    digest = await digest_of(kept)
    ids = [await scan(kept.world, digest, kind) for kind in ("vulnerabilities", "weights", "vulnerabilities")]
    path, token = VERSION + "/evidence", kept.tokens["reader"]
    first = (await kept.world.ask("GET", path + "?limit=2", token=token)).json()
    assert [item["id"] for item in first["items"]] == ids[:0:-1]
    rest = (await kept.world.ask("GET", f"{path}?limit=2&after={first['next']}", token=token)).json()
    assert ([item["id"] for item in rest["items"]], rest["next"]) == (ids[:1], None)
    assert first["items"][0]["tool"] == "trivy"
    assert first["items"][0]["summary"]["severities"]["LOW"] == {"total": 0, "fixable": 0}


async def test_a_report_comes_byte_for_byte_and_a_browser_neither_runs_nor_shows_it(kept: Staffed) -> None:
    number = await scan(kept.world, await digest_of(kept), "vulnerabilities")
    answer = await kept.world.ask("GET", f"{VERSION}/evidence/{number}/report", token=kept.tokens["reader"])
    assert answer.content == REPORT
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_report_is_reached_only_through_a_version_it_is_about(kept: Staffed) -> None:
    world = kept.world
    number = await scan(world, await digest_of(kept), "vulnerabilities")
    await world.version("vision/other", "1.0.0", content="another")
    for path in (
        f"/projects/vision/models/other/versions/1.0.0/evidence/{number}/report",
        f"{VERSION}/evidence/{number + 1}/report",
    ):
        assert (await world.ask("GET", path, token=kept.tokens["reader"])).status_code == 404
    assert (await world.ask("GET", f"{VERSION}/evidence/x/report", token=kept.tokens["reader"])).status_code == 422


async def test_scans_are_awaited_until_their_reports_are_there(kept: Staffed) -> None:
    world, path = kept.world, VERSION + "/scans"
    before = (await world.ask("GET", path, token=kept.tokens["reader"])).json()
    digest = await digest_of(kept)
    assert before["done"] is False
    assert {(item["digest"], item["kind"], item["state"]) for item in before["items"]} == {
        (digest, "vulnerabilities", "pending"),
        (digest, "weights", "pending"),
    }
    for kind in ("vulnerabilities", "weights"):
        await scan(world, digest, kind)
    after = (await world.ask("GET", path, token=kept.tokens["reader"])).json()
    assert (after["done"], after["pending"]) == (True, [])
    assert {item["state"] for item in after["items"]} == {"ok"}


async def test_a_scan_can_be_asked_for_again_and_waits_once(kept: Staffed) -> None:
    world, path = kept.world, VERSION + "/scans"
    digest = await digest_of(kept)
    for kind in ("vulnerabilities", "weights"):
        await scan(world, digest, kind)
    for _ in range(2):
        answer = await world.ask("POST", path, token=kept.tokens["reviewer"])
        assert (answer.status_code, answer.json()["done"]) == (202, False)
    metrics = await world.ask("GET", "/metrics", token=kept.tokens["auditor"])
    assert 'berth_queue_jobs{queue="scan",status="todo"} 2.0' in metrics.text
    assert len(await world.audited(action="scan.start", outcome="done")) == 2


async def test_keys_are_trusted_listed_and_untrusted(kept: Staffed) -> None:
    world, token, path = kept.world, kept.tokens["maintainer"], "/projects/strict/keys"
    pem = public_key()
    made = await world.ask("POST", path, token=token, json={"name": "release", "public_key": pem})
    assert made.status_code == 201, made.text
    assert made.json()["predicates"] == ["signature"]
    again = await world.ask("POST", path, token=token, json={"name": "release", "public_key": pem})
    assert again.status_code == 409
    listed = (await world.ask("GET", path, token=kept.tokens["reader"])).json()["items"]
    assert [(item["name"], item["key_id"], item["added_by"]) for item in listed] == [
        ("release", made.json()["key_id"], "the-maintainer")
    ]
    assert (await world.ask("DELETE", path + "/release", token=token)).status_code == 204
    assert (await world.ask("DELETE", path + "/release", token=token)).status_code == 404
    assert (await world.ask("GET", path, token=token)).json()["items"] == []
    trusted = [row.detail["trusted"] for row in await world.audited(action="key.trust", outcome="done")]
    assert trusted == [False, True]


@pytest.mark.parametrize(
    "body",
    [
        {"name": "k", "public_key": "not a key"},
        {"name": "", "public_key": "PEM"},
        {"name": "k", "public_key": "PEM", "predicates": []},
        {"name": "k", "public_key": "PEM", "predicates": ["vuln"]},
    ],
)
async def test_an_odd_key_is_refused(kept: Staffed, body: dict[str, object]) -> None:
    if body["public_key"] == "PEM":
        body = {**body, "public_key": public_key()}
    answer = await kept.world.ask("POST", "/projects/strict/keys", token=kept.tokens["maintainer"], json=body)
    assert answer.status_code == 400, answer.text


async def test_without_signatures_the_list_is_empty(kept: Staffed) -> None:
    answer = await kept.world.ask("GET", VERSION + "/signatures", token=kept.tokens["reader"])
    assert answer.json() == {"items": [], "next": None}


async def test_a_part_can_be_rejected_by_its_digest_and_only_what_is_here(kept: Staffed) -> None:
    """Revoking a child denies every root that holds it; approving one would say nothing."""
    digest = await digest_of(kept)
    reviewer = kept.tokens["reviewer"]
    by_digest = f"{MODEL}/versions/{digest}/approval"
    rejected = await kept.world.ask("POST", by_digest, token=reviewer, json={"decision": "rejected"})
    assert (rejected.status_code, rejected.json()["digest"]) == (201, digest)
    nowhere = f"{MODEL}/versions/sha256:{'0' * 64}/approval"
    for decision in ("rejected", "approved"):
        answer = await kept.world.ask("POST", nowhere, token=reviewer, json={"decision": decision})
        assert answer.status_code == 404
