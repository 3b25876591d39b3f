"""Commands that talk to a service: what they ask, print and return."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.cli.xumi.evidence import in_short
from tests.unit.cli.conftest import Ran, Service

Cli = Callable[..., Ran]
DIGEST = "sha256:" + "a" * 64
V = "/api/v1/projects/ml/models/demo/versions/1.0.0"
DENY = {
    "digest": DIGEST,
    "verdict": "deny",
    "valid_until": None,
    "reasons": [{"code": "signature.missing", "message": "No trusted key has signed it."}],
    "policy_hash": "x",
}
ALLOW = {"digest": DIGEST, "verdict": "allow", "valid_until": "2026-12-23T00:00:00Z", "reasons": []}


def test_explain_says_no_with_every_reason_and_exit_3(cli: Cli, service: Service) -> None:
    service.answers[f"GET {V}/verdict"] = (200, DENY)
    ran = cli("xumi", "explain", "ml/demo:1.0.0", "-o", "json")
    assert ran.code == 3
    assert ran.json == {k: DENY[k] for k in ("digest", "verdict", "valid_until", "reasons")}
    text = cli("xumi", "explain", "ml/demo:1.0.0")
    assert text.code == 3
    assert "signature.missing: No trusted key has signed it." in text.out
    assert service.asked[0][2] == "Bearer secret-token"


def test_explain_says_yes_with_exit_0(cli: Cli, service: Service) -> None:
    service.answers[f"GET {V}/verdict"] = (200, ALLOW)
    ran = cli("xumi", "explain", "ml/demo:1.0.0", "-o", "json")
    assert (ran.code, ran.json["verdict"]) == (0, "allow")


def test_an_error_of_the_service_is_json_when_asked_for(cli: Cli, service: Service) -> None:
    ran = cli("xumi", "explain", "ml/none:1.0.0", "-o", "json")
    assert (ran.code, ran.out) == (1, "")
    assert (ran.error["code"], ran.error["hint"]) == ("not_found", "Script it.")
    plain = cli("xumi", "explain", "ml/none:1.0.0")
    assert plain.err.endswith("→ Script it.\n")


def test_a_service_that_is_not_running_is_one_clear_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("berth.client.session.time.sleep", lambda _: None)
    ran = cli("xumi", "approve", "ml/demo:1.0.0", "-o", "json")
    assert (ran.code, ran.error["code"]) == (1, "unavailable")


@pytest.mark.parametrize(
    ("command", "decision"), [("approve", "approved"), ("reject", "rejected"), ("revoke", "revoked")]
)
def test_a_decision_is_recorded_and_the_verdict_shown(cli: Cli, service: Service, command: str, decision: str) -> None:
    service.answers[f"POST {V}/approval"] = (201, {"decision": decision, "by": "alice"})
    service.answers[f"GET {V}/verdict"] = (200, ALLOW)
    ran = cli("xumi", command, "ml/demo:1.0.0", "--note", "looked at it", "-o", "json")
    assert ran.code == 0
    assert ran.json["verdict"] == "allow"
    assert service.asked[0][:2] == (f"POST {V}/approval", {"decision": decision, "note": "looked at it"})


EVIDENCE = {
    "items": [
        {"id": 1, "kind": "weights", "status": "ok", "finished_at": "2026-11-01T00:00:00Z", "tool": "w"},
        {"id": 3, "kind": "vulnerabilities", "status": "ok", "finished_at": "2026-11-03T00:00:00Z", "tool": "trivy"},
        {
            "id": 2,
            "kind": "vulnerabilities",
            "status": "failed",
            "finished_at": "2026-11-02T00:00:00Z",
            "tool": "trivy",
        },
    ],
    "next": None,
}


def test_evidence_is_listed(cli: Cli, service: Service) -> None:
    service.answers[f"GET {V}/evidence"] = (200, EVIDENCE)
    assert cli("xumi", "evidence", "ls", "ml/demo:1.0.0", "-o", "json").json == EVIDENCE["items"]
    assert len(cli("xumi", "evidence", "ls", "ml/demo:1.0.0").out.splitlines()) == 4


def test_a_summary_is_a_few_words_for_people() -> None:
    summary = {
        "severities": {"CRITICAL": {"total": 2, "fixable": 1}, "LOW": {"total": 0, "fixable": 0}},
        "malicious": [{"file": "x"}],
        "problems": [{"code": "database.unavailable", "message": "No database."}],
        "suspicious": [],
    }
    assert in_short(summary) == "2 critical, 1 malicious, 1 problems (database.unavailable)"
    assert in_short({"severities": {}, "malicious": []}) == "nothing found"


@pytest.mark.parametrize(("which", "number"), [("vulnerabilities", 3), ("2", 2)])
def test_a_report_is_the_newest_of_its_kind_or_the_one_with_that_id(
    cli: Cli, service: Service, tmp_path: Path, which: str, number: int
) -> None:
    service.answers[f"GET {V}/evidence"] = (200, EVIDENCE)
    service.answers[f"GET {V}/evidence/{number}/report"] = (200, b"\x00report")
    ran = cli("xumi", "evidence", "report", "ml/demo:1.0.0", which, "-o", str(tmp_path / "report"))
    assert ran.code == 0
    assert (tmp_path / "report").read_bytes() == b"\x00report"
    missing = cli("xumi", "evidence", "report", "ml/demo:1.0.0", "sbom", "-o", str(tmp_path / "other"))
    assert missing.code == 1
    assert "There is: vulnerabilities, weights." in missing.err
    assert not (tmp_path / "other").exists()


def test_scans_are_shown_and_started_again(cli: Cli, service: Service) -> None:
    service.answers[f"GET {V}/scans"] = (200, {"pending": ["weights"], "done": False})
    service.answers[f"POST {V}/scans"] = (202, {"pending": ["weights"], "done": False})
    assert cli("xumi", "scans", "ml/demo:1.0.0").out == "Pending: weights\n"
    assert cli("xumi", "scan", "ml/demo:1.0.0", "-o", "json").json["done"] is False
    assert f"POST {V}/scans" in [line for line, _, _ in service.asked]


def test_waiting_for_scans_ends_with_an_error_at_the_timeout(cli: Cli, service: Service) -> None:
    service.answers[f"GET {V}/scans"] = (200, {"pending": ["weights"], "done": False})
    ran = cli("xumi", "scans", "ml/demo:1.0.0", "--wait", "--timeout", "0", "-o", "json")
    assert (ran.code, ran.error["code"]) == (1, "unavailable")


def test_where_names_the_digest(cli: Cli, service: Service) -> None:
    service.answers["GET /api/v1/projects/ml/models/demo/versions/production"] = (
        200,
        {"version": "1.0.0+gpu", "digest": DIGEST},
    )
    places = [{"registry": "hub", "repository": "ml/demo", "state": "exposed", "error": "Tags stay there."}]
    places[0] |= {"bytes_done": 0, "bytes_total": 0, "blobs_done": 0, "blobs_total": 0, "next_try_at": None}
    service.answers["GET /api/v1/projects/ml/models/demo/versions/1.0.0%2Bgpu/placements"] = (
        200,
        {"items": places, "next": None},
    )
    depot = {"state": "partly", "blobs": 3, "bytes": 900 << 10, "blobs_here": 1, "bytes_here": 200}
    hub = {"registry": "hub", "repository": "ml/demo", "state": "exposed", "found": True, "healthy": False}
    hub |= {"trusted": True, "retry_in": 4.5, "latency_ms": None, "reason": "down"}
    service.answers["GET /api/v1/projects/ml/models/demo/versions/1.0.0%2Bgpu/where"] = (
        200,
        {"depot": depot, "registries": [hub], "next": "hub"},
    )
    host = service.url.removeprefix("http://")
    said = cli("xumi", "where", "ml/demo:production")
    assert said.out == f"{host}/ml/demo@{DIGEST}\n", "one line, so that it can stand in a command"
    assert "200 B of 900.0 KiB are in the depot (1 of 3 blobs)" in said.err
    assert "exposed at hub as ml/demo (found there, left alone for 4.5 s): Tags stay there." in said.err
    assert "hub is asked first for the rest." in said.err
    told = cli("xumi", "where", "ml/demo:production", "-o", "json").json
    assert (told["tagged"], told["placements"]) == (f"{host}/ml/demo:1.0.0_gpu", places)
    assert (told["depot"], told["next"]) == (depot, "hub")


def test_a_run_is_told_in_units_and_counted_in_bytes(cli: Cli, service: Service) -> None:
    run = {"id": 7, "rule": "eu", "state": "succeeded", "counts": {"done": 3, "copy": 1}, "error": None}
    run["bytes_transferred"] = 3 << 20
    shown = {"target_repository": "ml/demo", "bytes": 0, "error": None}
    items = [shown | {"action": "skip", "tag": "0.9.0", "state": "done", "reason": "It is not in ^1."}]
    items += [shown | {"action": "copy", "tag": f"1.0.{n}", "state": "done", "reason": ""} for n in range(2)]
    service.answers["POST /api/v1/sync/rules/eu/runs"] = (202, {**run, "state": "queued", "counts": {}})
    service.answers["GET /api/v1/sync/runs/7"] = (200, run)
    service.answers["GET /api/v1/sync/runs/7/items"] = (200, {"items": items, "next": None})
    service.answers["GET /api/v1/sync/rules/eu/runs"] = (200, {"items": [run], "next": None})
    words = "succeeded: 1 to copy, 2 done, 1 skipped; 3.0 MiB moved."
    assert cli("berth", "sync", "run", "eu", "--wait").out == f"{words}\n"
    assert cli("berth", "sync", "run", "eu", "--wait", "-o", "json").json["bytes_transferred"] == 3 << 20
    assert f"Run 7 of eu: {words}" in cli("berth", "sync", "status", "--run", "7").err
    assert "3.0 MiB" in cli("berth", "sync", "status", "eu").out
    assert cli("berth", "sync", "status", "eu", "-o", "json").json == [run]


def test_what_a_registry_can_do_is_lines_for_people(cli: Cli, service: Service) -> None:
    found = {"mount": True, "scan": None, "largest_manifest": 4 << 20, "notes": ["conditional writes: yes"]}
    registry = {"name": "shelf", "kind": "objects", "capabilities": found}
    service.answers["GET /api/v1/registries/shelf"] = (200, registry)
    service.answers["POST /api/v1/registries/shelf/probe"] = (200, registry)
    lines = "largest_manifest: 4.0 MiB\nmount:            yes\nscan:             -\n"
    assert cli("berth", "registry", "probe", "shelf").out == lines
    assert cli("berth", "registry", "show", "shelf").out.endswith(f"notes: conditional writes: yes\n\n{lines}")
    assert cli("berth", "registry", "show", "shelf", "-o", "json").json == registry


def test_an_import_says_what_became_of_each_tag(cli: Cli, service: Service) -> None:
    run = {"id": 7, "state": "succeeded", "counts": {"done": 1}, "bytes_transferred": 90, "error": None}
    item = {"action": "import", "source_repository": "ml/demo", "tag": "1.0.0", "digest": DIGEST, "state": "planned"}
    item |= {"code": "new", "reason": "It is not known here yet."}
    service.answers["POST /api/v1/registries/hub/import"] = (202, {**run, "state": "queued"})
    service.answers["GET /api/v1/sync/runs/7"] = (200, run)
    service.answers["GET /api/v1/sync/runs/7/items"] = (200, {"items": [item], "next": None})
    told = cli("berth", "registry", "import", "hub", "--project", "ml", "--dry-run", "-o", "json")
    assert (told.code, told.json["items"]) == (0, [item])
    assert {"dry_run": True, "project": "ml"} in [body for _, body, _ in service.asked]
    assert "1.0.0" in cli("berth", "registry", "import", "hub", "--wait").out
    run["state"] = "failed"
    assert cli("berth", "registry", "import", "hub", "--wait").code != 0


@pytest.mark.parametrize("typed", ["", "n\n", "\n"])
def test_a_deletion_that_nobody_agrees_to_does_not_happen(
    cli: Cli, service: Service, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    service.answers[f"DELETE {V}"] = (204, b"")
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    ran = cli("berth", "version", "rm", "ml/demo:1.0.0", "-o", "json")
    assert (ran.code, ran.error["hint"], service.asked) == (1, "With --yes it does not ask.", [])
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert cli("berth", "version", "rm", "ml/demo:1.0.0").code == 0
    assert cli("berth", "version", "rm", "ml/demo:1.0.0", "--yes").code == 0
    assert [line for line, _, _ in service.asked] == [f"DELETE {V}"] * 2


def test_a_key_pair_is_made_once(cli: Cli, tmp_path: Path) -> None:
    base = str(tmp_path / "release")
    ran = cli("xumi", "key", "generate", "--out", base, "-o", "json")
    assert ran.code == 0
    assert stat.S_IMODE(Path(ran.json["private_key"]).stat().st_mode) == 0o600
    assert "BEGIN PUBLIC KEY" in Path(ran.json["public_key"]).read_text()
    again = cli("xumi", "key", "generate", "--out", base)
    assert again.code == 1
    assert "exists already" in again.err


def test_a_key_is_encrypted_with_the_password_of_the_environment(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str(tmp_path / "release")
    missing = cli("xumi", "key", "generate", "--out", base, "--password-env")
    assert (missing.code, "BERTH_KEY_PASSWORD" in missing.err) == (1, True)
    monkeypatch.setenv("BERTH_KEY_PASSWORD", "pass phrase")
    assert cli("xumi", "key", "generate", "--out", base, "--password-env").code == 0
    assert "ENCRYPTED" in (tmp_path / "release.key").read_text()


def test_a_log_is_not_pretended(cli: Cli, tmp_path: Path) -> None:
    ran = cli("xumi", "sign", "ml/demo:1.0.0", "--key", str(tmp_path / "no.key"), "--tlog", "-o", "json")
    assert (ran.code, ran.error["code"]) == (1, "unsupported")
    wrong = cli("xumi", "sign", "ml/demo:1.0.0", "--key", str(tmp_path / "no.key"), "--format", "pgp", "-o", "json")
    assert wrong.error["code"] == "invalid_input"


def test_a_login_is_tried_before_it_is_stored(cli: Cli, service: Service, home: Path) -> None:
    service.answers["GET /api/v1/whoami"] = (401, {"status": 401, "code": "unauthenticated", "detail": "Expired."})
    refused = cli("xumi", "login", service.url)
    assert refused.code == 1
    assert not (home / "credentials").exists()
    service.answers["GET /api/v1/whoami"] = (200, {"name": "alice"})
    ran = cli("xumi", "login", service.url, "-o", "json")
    assert (ran.code, ran.json["user"]) == (0, "alice")
    assert "secret-token" not in ran.out + ran.err
    stored = json.loads((home / "credentials").read_text())
    assert stored["services"][service.url] == {"token": "secret-token", "user": "alice"}


def test_a_stored_login_is_used_without_an_environment(
    cli: Cli, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answers["GET /api/v1/whoami"] = (200, {"name": "alice"})
    cli("xumi", "login", service.url)
    monkeypatch.delenv("BERTH_URL")
    monkeypatch.delenv("BERTH_TOKEN")
    service.answers[f"GET {V}/verdict"] = (200, ALLOW)
    assert cli("xumi", "explain", "ml/demo:1.0.0").code == 0
    assert service.asked[-1][2] == "Bearer secret-token"
    assert cli("xumi", "logout", "-o", "json").json["removed"] is True
    assert cli("xumi", "logout", service.url, "-o", "json").json["removed"] is False


def test_aliases_are_set_shown_and_rolled_back(cli: Cli, service: Service) -> None:
    base = "/api/v1/projects/ml/models/demo/aliases"
    item = {"alias": "prod", "version": "1.0.0", "digest": DIGEST, "moved_at": "t", "moved_by": "alice"}
    service.answers = {
        f"PUT {base}/prod": (200, item),
        f"GET {base}": (200, {"items": [item], "next": None}),
        f"GET {base}/prod/history": (200, {"items": [item], "next": None}),
        f"POST {base}/prod/rollback": (200, {**item, "version": "0.9.0"}),
        f"DELETE {base}/prod": (204, b""),
    }
    assert cli("berth", "alias", "set", "ml/demo", "prod", "1.0.0", "--reason", "release").code == 0
    assert service.asked[-1][1] == {"version": "1.0.0", "reason": "release"}
    assert "prod   1.0.0" in cli("berth", "alias", "ls", "ml/demo").out
    assert cli("berth", "alias", "history", "ml/demo", "prod", "-o", "json").json == [item]
    assert "0.9.0" in cli("berth", "alias", "rollback", "ml/demo", "prod").out
    assert cli("berth", "alias", "rm", "ml/demo", "prod", "--yes").code == 0


def test_versions_are_listed_shown_deprecated_and_removed(cli: Cli, service: Service) -> None:
    item = {"version": "1.0.0", "digest": DIGEST, "state": "live", "approval": "none", "verdict": "allow"}
    service.answers = {
        "GET /api/v1/projects/ml/models/demo/versions": (200, {"items": [item], "next": None}),
        f"GET {V}": (200, item),
        f"PATCH {V}": (200, item),
        f"DELETE {V}": (204, b""),
    }
    assert cli("berth", "version", "ls", "ml/demo", "-o", "json").json == [item]
    assert cli("berth", "version", "show", "ml/demo:1.0.0", "-o", "json").json == item
    assert cli("berth", "version", "deprecate", "ml/demo:1.0.0", "--undo").code == 0
    assert service.asked[-1][1] == {"deprecated": False}
    assert cli("berth", "version", "rm", "ml/demo:1.0.0", "--yes").code == 0
    assert service.asked[-1][0] == f"DELETE {V}"


def test_a_push_without_a_name_needs_a_manifest_here(cli: Cli) -> None:
    ran = cli("xumi", "push", "-o", "json")
    assert (ran.code, ran.error["code"]) == (1, "name_invalid")


def test_a_pull_into_a_full_folder_asks_nothing_of_the_registry(cli: Cli, service: Service, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    service.answers[f"GET {V}"] = (200, {"version": "1.0.0", "digest": DIGEST})
    ran = cli("xumi", "pull", "ml/demo:1.0.0", "-o", str(tmp_path / "out"), "--output", "json")
    assert (ran.code, ran.error["code"]) == (1, "conflict")
    assert not any("/v2/" in line for line, _, _ in service.asked)


def test_a_denied_pull_prints_every_reason(cli: Cli, service: Service, tmp_path: Path) -> None:
    service.answers[f"GET {V}"] = (200, {"version": "1.0.0", "digest": DIGEST})
    reasons = [{"code": "a", "message": "First."}, {"code": "b", "message": "Second."}]
    service.answers[f"GET /v2/ml/demo/manifests/{DIGEST}"] = (
        403,
        {"errors": [{"code": "DENIED", "message": "Not admitted.", "detail": {"reasons": reasons}}]},
    )
    ran = cli("xumi", "pull", "ml/demo:1.0.0", "-o", str(tmp_path / "out"))
    assert ran.code == 1
    assert "  - a: First.\n  - b: Second.\n" in ran.err
    assert not (tmp_path / "out").exists()
