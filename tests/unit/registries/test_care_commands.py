"""`berth registry hook|scan|gc|project|robot|retention`: what they ask, print, and refuse to do unasked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.cli.conftest import Ran, Service

Cli = Callable[..., Ran]
R = "/api/v1/registries/harbor"


def test_a_hook_shows_its_secret_once_and_what_was_set_up(cli: Cli, service: Service) -> None:
    answer = {
        "address": "https://berth.example/hooks/harbor",
        "secret": "s3cret",
        "authorization": "Bearer s3cret",
        "installed": [{"project": "vision", "added": True}],
    }
    service.answers[f"POST {R}/hook"] = (200, answer)
    ran = cli("berth", "registry", "hook", "harbor", "--install", "vision", "--pulls")
    assert (ran.code, ran.out.splitlines()) == (
        0,
        [
            "Deliveries of harbor come to https://berth.example/hooks/harbor.",
            "Authorization: Bearer s3cret",
            "vision: its webhook was set up there.",
        ],
    )
    assert service.asked[0][1] == {"projects": ["vision"], "pulls": True, "anew": False}
    service.answers[f"POST {R}/hook"] = (200, {**answer, "secret": None, "authorization": None, "installed": []})
    assert "Authorization" not in cli("berth", "registry", "hook", "harbor").out
    service.answers[f"DELETE {R}/hook"] = (204, b"")
    assert cli("berth", "registry", "unhook", "harbor", "--yes").code == 0


def test_a_hook_shows_where_the_secret_goes(cli: Cli, service: Service) -> None:
    base = {"authorization": None, "installed": [], "secret": "s3cret"}
    service.answers[f"POST {R}/hook"] = (200, {**base, "address": "https://b.example/hooks/harbor?token=s3cret"})
    assert cli("berth", "registry", "hook", "harbor").out.splitlines() == [
        "Deliveries of harbor come to https://b.example/hooks/harbor?token=s3cret."
    ]
    service.answers[f"POST {R}/hook"] = (200, {**base, "address": "https://b.example/hooks/harbor"})
    assert cli("berth", "registry", "hook", "harbor").out.splitlines()[1:] == ["Secret: s3cret"]


def test_a_clean_up_is_dry_until_it_is_told_and_confirmed(cli: Cli, service: Service) -> None:
    service.answers[f"POST {R}/gc"] = (202, {"run": "7", "state": "running"})
    service.answers[f"GET {R}/gc/7"] = (200, {"run": "7", "state": "done"})
    service.answers[f"GET {R}/gc/7/log"] = (200, {"log": "2 blobs"})
    assert cli("berth", "registry", "gc", "harbor", "--wait").out == "7: done (a dry run)\n"
    assert cli("berth", "registry", "gc", "harbor", "--remove").code != 0, "nobody said yes"
    assert cli("berth", "registry", "gc", "harbor", "--remove", "--yes").out == "7: done\n"
    assert cli("berth", "registry", "gc", "harbor", "--run", "7", "--log").out == "2 blobs\n"
    assert [body for line, body, _ in service.asked if line.startswith("POST")] == [
        {"dry_run": True},
        {"dry_run": False},
    ]


def test_retention_deletes_only_when_told_and_confirmed(cli: Cli, service: Service) -> None:
    found = [{"repository": "vision/net", "found": 12, "kept": 10}]
    run = {"id": 3, "state": "done", "dry_run": True, "repositories": found}
    service.answers[f"POST {R}/projects/vision/retention/runs"] = (202, run)
    ran = cli("berth", "registry", "retention", "run", "harbor", "vision")
    assert ran.out == "3: done (a dry run)\nvision/net: 10 of 12 kept\n"
    assert cli("berth", "registry", "retention", "run", "harbor", "vision", "--delete").code != 0
    assert cli("berth", "registry", "retention", "run", "harbor", "vision", "--delete", "-y").code == 0
    assert [body for _, body, _ in service.asked] == [{"dry_run": True}, {"dry_run": False}]


def test_retention_is_set_after_what_goes_was_shown_and_confirmed(cli: Cli, service: Service) -> None:
    gone = {"place": "vision/net", "count": 2, "tags": ["1.0.0", "1.1.0"]}
    waits = {"place": "vision/old", "count": None, "tags": []}
    answer = {"changes": ["vision/net: kept: everything → 3"], "dry_run": True, "expiring": [gone, waits]}
    service.answers[f"PUT {R}/projects/vision/retention"] = (200, answer)
    words = ("berth", "registry", "retention", "set", "harbor", "vision", "--keep", "3")
    unsaid = cli(*words)
    assert unsaid.code != 0
    assert "vision/net: 2 go: 1.0.0, 1.1.0" in unsaid.err
    assert cli(*words, "--dry-run").out.splitlines() == [
        "vision/net: kept: everything → 3",
        "vision/net: 2 go: 1.0.0, 1.1.0",
        "vision/old: it is still looking what goes; ask again",
    ]
    assert cli(*words, "--yes", "-o", "json").json == answer
    assert [body["dry_run"] for _, body, _ in service.asked] == [True, True, False]
    service.asked.clear()
    service.answers[f"PUT {R}/projects/vision/retention"] = (200, {**answer, "changes": [], "expiring": None})
    assert cli(*words).out == "Nothing to change.\n", "nothing is asked where nothing changes"
    place = {"place": "vision/net", "keep_newest": 3, "schedule": "1d", "rules": ["a"]}
    service.answers[f"GET {R}/projects/vision/retention"] = (200, {"items": [place]})
    assert "vision/net" in cli("berth", "registry", "retention", "show", "harbor", "vision").out


def test_usage_is_shown_in_all_and_by_repository(cli: Cli, service: Service) -> None:
    each = {"repository": "vision/net", "used": 2048, "images": 3, "tags": None}
    service.answers[f"GET {R}/usage"] = (
        200,
        {"project": "vision", "used": 2048, "limit": None, "repositories": [each]},
    )
    assert cli("berth", "registry", "usage", "harbor", "vision").out.splitlines() == [
        "2.0 KiB used, no limit.",
        "REPOSITORY  BYTES    IMAGES  TAGS",
        "vision/net  2.0 KiB  3       -",
    ]


def test_a_project_is_set_by_what_is_said_and_nothing_else(cli: Cli, service: Service) -> None:
    service.answers[f"PUT {R}/projects/vision"] = (200, {"changes": ["auto_scan: false → true"], "dry_run": True})
    flags = ("--auto-scan", "--allow-vulnerable", "--storage", "1000", "--dry-run")
    ran = cli("berth", "registry", "project", "set", "harbor", "vision", *flags)
    assert (ran.out, "dry run" in ran.err) == ("auto_scan: false → true\n", True)
    assert service.asked[0][1] == {
        "auto_scan": True,
        "prevent_vulnerable": False,
        "storage_limit": 1000,
        "dry_run": True,
    }


@pytest.mark.parametrize("adopt", [True, False])
def test_a_robots_secret_is_printed_unless_the_service_keeps_it(cli: Cli, service: Service, adopt: bool) -> None:
    made = {"id": 4, "name": "robot$vision+ci", "rights": [], "expires_at": None, "disabled": False}
    service.answers[f"POST {R}/projects/vision/robots"] = (201, {**made, "secret": None if adopt else "s3cret"})
    ran = cli("berth", "registry", "robot", "add", "harbor", "vision", "ci", *(["--adopt"] if adopt else []))
    assert ("s3cret" in ran.out) is not adopt
    assert service.asked[0][1] == {"name": "ci", "publishes": True, "days": -1, "adopt": adopt}


def test_a_scan_is_waited_for_and_a_failed_one_is_an_error(cli: Cli, service: Service) -> None:
    state = {"digest": "sha256:1", "severity": "High", "report_id": "1", "scanner": "Trivy"}
    service.answers[f"POST {R}/scans"] = (202, {"digest": "sha256:1", "started": True})
    service.answers[f"GET {R}/scans"] = (200, {**state, "state": "done", "counts": {"high": 2}})
    assert cli("berth", "registry", "scan", "harbor", "vision/net:1.0.0", "--wait").out == "done: 2 high\n"
    service.answers[f"GET {R}/scans"] = (200, {**state, "state": "failed", "counts": {}})
    assert cli("berth", "registry", "scan", "harbor", "vision/net:1.0.0").code == 1
    service.answers[f"GET {R}/scans"] = (200, {**state, "state": "running", "counts": {}})
    late = cli("berth", "registry", "scan", "harbor", "vision/net:1.0.0", "--wait", "--timeout", "0")
    assert late.code != 0
    assert "goes on after 0 seconds" in late.err


def test_health_and_check_say_it_in_a_line(cli: Cli, service: Service) -> None:
    ill = {"healthy": False, "components": {"core": "no database"}, "version": "v2.15.2", "read_only": True}
    service.answers[f"GET {R}/health"] = (200, ill)
    ran = cli("berth", "registry", "health", "harbor")
    assert (ran.code, ran.out.splitlines()[:2]) == (1, ["harbor is NOT healthy (v2.15.2).", "core: no database"])
    well = {"healthy": True, "components": {"folder": "healthy"}, "free_bytes": 3 << 30, "milliseconds": 4}
    service.answers[f"GET {R}/health"] = (200, well)
    ran = cli("berth", "registry", "health", "harbor")
    assert (ran.code, ran.out) == (0, "harbor is healthy, answered in 4 ms.\nfolder: healthy\n3.0 GiB free.\n")
    assert cli("berth", "registry", "health", "harbor", "-o", "json").json == well
    service.answers[f"POST {R}/check"] = (200, {"repository": "ml/vision/net", "tag": "1.0.0", "checked": 0})
    checked = cli("berth", "registry", "check", "harbor", "vision/net:1.0.0")
    assert (checked.out, "not in the depot" in checked.err) == ("ml/vision/net:1.0.0\n", True)
