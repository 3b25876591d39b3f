"""Looking after registries over REST, against a Harbor that is held to its own description, and kinds that cannot."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from berth.access import registries as access_registries
from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import RegistrySettings
from berth.db import registries as stored
from berth.db.sealing import sealer
from berth.sync.events import queries as events
from tests.contracts.registries.harbor_double import PASSWORD, USER, HarborDouble
from tests.contracts.registries.oci_double import sha256
from tests.unit.server.api.conftest import Staffed
from tests.unit.wire.conftest import IMPATIENT
from tests.unit.wire.peer import running

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REF = "vision/net:1.0.0"
DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def double() -> HarborDouble:
    return HarborDouble("vision")


@pytest.fixture
async def staff(staffed: Staffed, double: HarborDouble) -> AsyncIterator[Staffed]:
    async with running(double) as peer:
        body = {"name": "harbor", "kind": "harbor", "url": peer.url, "username": USER, "secret": PASSWORD}
        added = await staffed.world.ask("POST", "/registries", token=staffed.tokens["root"], json=body)
        assert added.status_code == 201, added.text
        yield staffed
    assert double.mistakes == []


async def ask(staff: Staffed, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    answer = await staff.world.ask(method, f"/registries/harbor{path}", token=staff.tokens["root"], json=body)
    return answer.status_code, answer.json() if answer.content else None


async def push(double: HarborDouble, url: str) -> str:
    """A version at Harbor, as our own adapter puts it there."""
    registry = Registries(retry=IMPATIENT).open(RegistrySettings("h", "harbor", url, USER, PASSWORD))

    async def chunks() -> AsyncIterator[bytes]:
        yield b"{}"

    await registry.push_blob("vision/net", sha256(b"{}"), size=2, chunks=chunks())
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2}
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [config]}).encode()
    digest = await registry.push_manifest("vision/net", "1.0.0", media_type=MANIFEST, body=body)
    await registry.close()
    return digest


async def url_of(staff: Staffed) -> str:
    return str((await ask(staff, "GET", ""))[1]["url"])


async def test_a_scan_there_from_start_to_log(staff: Staffed, double: HarborDouble) -> None:
    digest = await push(double, await url_of(staff))
    where = f"?reference={REF}"
    assert (await ask(staff, "GET", "/scans" + where))[1]["state"] == "none"
    assert (await ask(staff, "GET", "/scans/log" + where))[0] == 404
    assert await ask(staff, "POST", "/scans", {"reference": REF}) == (202, {"digest": digest, "started": True})
    assert (await ask(staff, "POST", "/scans", {"reference": REF}))[1]["started"] is False
    assert (await ask(staff, "GET", "/scans/report" + where))[1]["report"] is None
    double.scans[digest] = "Success"
    status, found = await ask(staff, "GET", "/scans" + where)
    assert (status, found["state"], found["counts"], found["scanner"]) == (200, "done", {"high": 1, "low": 2}, "Trivy")
    report = (await ask(staff, "GET", "/scans/report" + where))[1]["report"]
    assert [v["id"] for part in report.values() for v in part["vulnerabilities"]] == ["CVE-2026-1"]
    assert (await ask(staff, "GET", "/scans/log" + where))[1] == {"log": "scan 7f0f"}
    double.unscannable.add(digest)
    assert (await ask(staff, "POST", "/scans", {"reference": REF}))[0] == 405
    # By digest it need not be tagged.
    assert (await ask(staff, "GET", f"/scans?reference=vision/net@{digest}"))[1]["state"] == "done"


@pytest.mark.parametrize(
    ("reference", "status"),
    [("vision/net:9.9.9", 404), ("vision/net", 400), ("net:1", 400), ("Vision/net:1", 400), ("h/vision/net:1", 400)],
)
async def test_what_is_not_there_or_no_reference_is_said_so(staff: Staffed, reference: str, status: int) -> None:
    assert (await ask(staff, "GET", f"/scans?reference={reference}"))[0] == status
    assert (await ask(staff, "POST", "/scans", {"reference": reference}))[0] == status


async def test_health_usage_and_what_it_knows(staff: Staffed, double: HarborDouble) -> None:
    digest = await push(double, await url_of(staff))
    health = (await ask(staff, "GET", "/health"))[1]
    assert health.pop("milliseconds") >= 0
    assert health == {
        "healthy": True,
        "components": {"core": "healthy"},
        "version": "v2.15.2",
        "read_only": False,
        "free_bytes": None,
    }
    assert (await ask(staff, "GET", "/usage?project=vision"))[1] == {
        "project": "vision",
        "used": 2,
        "limit": None,
        "repositories": [],
    }
    found = (await ask(staff, "GET", f"/artifact?reference={REF}"))[1]
    assert (found["digest"], found["tags"], found["pulled_at"], found["pulls_told"]) == (digest, ["1.0.0"], None, 0)


async def test_a_registry_that_is_away_is_an_answer(staffed: Staffed) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody listens
        added = {"name": "gone", "kind": "distribution", "url": f"http://127.0.0.1:{held.getsockname()[1]}"}
        root = staffed.tokens["root"]
        assert (await staffed.world.ask("POST", "/registries", token=root, json=added)).status_code == 201
        answer = await staffed.world.ask("GET", "/registries/gone/health", token=root)
    assert (answer.status_code, answer.json()["healthy"]) == (200, False), answer.text
    assert list(answer.json()["components"]) == ["reachable"]
    assert (await staffed.world.ask("GET", "/registries/none/health", token=root)).status_code == 404


async def test_pulls_that_its_webhook_told_of_are_shown(staff: Staffed, double: HarborDouble) -> None:
    digest = await push(double, await url_of(staff))
    async with staff.world.database.transaction() as conn:
        row = await stored.registry_named(conn, "harbor")
        assert row is not None
        for at in (staff.world.clock(), staff.world.clock()):
            await events.count_pull(conn, row.id, repository="vision/net", digest=digest, at=at)
        await events.count_pull(conn, row.id, repository="vision/other", digest=digest, at=staff.world.clock())
    assert (await ask(staff, "GET", f"/artifact?reference={REF}"))[1]["pulls_told"] == 2


async def test_a_clean_up_is_dry_unless_told_otherwise(staff: Staffed, double: HarborDouble) -> None:
    assert await ask(staff, "POST", "/gc", {}) == (202, {"run": "1", "state": "done"})
    assert (await ask(staff, "POST", "/gc", {"dry_run": False}))[0] == 202
    assert [json.loads(c["job_parameters"])["dry_run"] for c in double.collections] == [True, False]
    assert (await ask(staff, "GET", "/gc/2"))[1] == {"run": "2", "state": "done"}
    assert "2 blobs" in (await ask(staff, "GET", "/gc/2/log"))[1]["log"]
    assert (await ask(staff, "GET", "/gc/9"))[0] == 404
    double.collections[-1]["job_status"] = "Running"
    assert (await ask(staff, "POST", "/gc", {}))[0] == 409
    done = [row.detail for row in await staff.world.audited(action="registry.manage", object="harbor")]
    assert {"clean_up": "2", "dry_run": False} in done


async def test_projects_are_made_and_looked_at(staff: Staffed, double: HarborDouble) -> None:
    plan = {"auto_scan": True, "prevent_vulnerable": True, "severity": "high", "storage_limit": 10**9}
    dry = await ask(staff, "PUT", "/projects/models", {**plan, "dry_run": True})
    assert dry[1]["changes"][0] == "project models: none → made"
    assert "models" not in double.projects
    assert (await ask(staff, "PUT", "/projects/models", plan))[1]["changes"] == dry[1]["changes"]
    assert (await ask(staff, "PUT", "/projects/models", plan))[1]["changes"] == []
    status, found = await ask(staff, "GET", "/projects/models")
    assert (status, found["settings"]["auto_scan"], found["limit"]) == (200, "true", 10**9)
    assert (await ask(staff, "GET", "/projects/nothing"))[0] == 404
    assert (await ask(staff, "PUT", "/projects/models", {"severity": "awful"}))[0] == 422
    assert (await ask(staff, "PUT", "/projects/Not-a-name", {}))[0] == 400
    changed = [row.detail for row in await staff.world.audited(action="registry.manage") if "changes" in row.detail]
    assert len(changed) == 1, "what was only tried, or changed nothing, is not in the audit log"


async def test_a_robots_secret_is_shown_once_or_kept_by_us(staff: Staffed, double: HarborDouble) -> None:
    made = (await ask(staff, "POST", "/projects/vision/robots", {"name": "ci"}))[1]
    assert (made["name"], made["secret"]) == ("robot$vision+ci", "shown once")
    assert "repository push" in made["rights"]
    [listed] = (await ask(staff, "GET", "/projects/vision/robots"))[1]["items"]
    assert (listed["id"], listed["secret"]) == (made["id"], None)
    assert (await ask(staff, "POST", "/projects/vision/robots", {"name": "ci"}))[0] == 409
    adopted = (await ask(staff, "POST", "/projects/vision/robots", {"name": "berth", "adopt": True}))[1]
    assert adopted["secret"] is None
    async with staff.world.database.reading() as conn:
        row = await stored.registry_named(conn, "harbor")
    assert row is not None
    opened = access_registries.settings_of(row, lambda: sealer(staff.world.services.settings))
    assert (opened.username, opened.secret) == ("robot$vision+berth", "shown once")
    assert "shown once" not in repr(await staff.world.audited(action="registry.manage"))


async def test_robots_are_renewed_and_removed(staff: Staffed) -> None:
    made = (await ask(staff, "POST", "/projects/vision/robots", {"name": "ci", "publishes": False}))[1]
    assert "repository push" not in made["rights"]
    renewed = await ask(staff, "POST", f"/projects/vision/robots/{made['id']}/secret", {})
    assert renewed[1]["secret"] == "another one"
    assert (await ask(staff, "DELETE", f"/projects/vision/robots/{made['id']}"))[0] == 204
    assert (await ask(staff, "DELETE", f"/projects/vision/robots/{made['id']}"))[0] == 404


async def test_tags_are_protected_and_old_versions_kept_or_not(staff: Staffed, double: HarborDouble) -> None:
    rule = {"tags": "[0-9]*"}
    assert (await ask(staff, "POST", "/projects/vision/protected-tags", {**rule, "dry_run": True}))[1]["changes"]
    assert double.projects["vision"].rules == []
    assert (await ask(staff, "POST", "/projects/vision/protected-tags", rule))[1]["changes"]
    assert not (await ask(staff, "POST", "/projects/vision/protected-tags", rule))[1]["changes"]
    [shown] = (await ask(staff, "GET", "/projects/vision"))[1]["rules"]
    assert (shown["tags"], shown["repositories"]) == ("[0-9]*", "**")
    assert (await ask(staff, "DELETE", f"/projects/vision/protected-tags/{shown['id']}"))[0] == 204
    assert (await ask(staff, "DELETE", f"/projects/vision/protected-tags/{shown['id']}"))[0] == 404

    assert (await ask(staff, "POST", "/projects/vision/retention/runs", {}))[0] == 404
    kept = await ask(staff, "PUT", "/projects/vision/retention", {"keep_newest": 20})
    assert kept[1]["changes"][0] == "kept: everything → 20"
    assert kept[1]["expiring"] is None
    assert (await ask(staff, "GET", "/projects/vision/retention"))[1]["items"] == [
        {
            "place": "vision",
            "keep_newest": 20,
            "schedule": "0 0 0 * * *",
            "rules": ["the newest 20 by push"],
        }
    ]
    status, run = await ask(staff, "POST", "/projects/vision/retention/runs", {})
    assert (status, run["dry_run"]) == (202, True)
    assert run["repositories"] == [{"repository": "lab/demo", "found": 12, "kept": 10}]
    really = await ask(staff, "POST", "/projects/vision/retention/runs", {"dry_run": False})
    assert really[1]["dry_run"] is False
    assert (await ask(staff, "GET", f"/projects/vision/retention/runs/{run['id']}"))[1] == run
    assert [e["dry_run"] for e in double.executions] == [True, False]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/usage?project=vision", None),
        ("POST", "/scans", {"reference": REF}),
        ("GET", f"/scans?reference={REF}", None),
        ("GET", f"/artifact?reference={REF}", None),
        ("POST", "/gc", {}),
        ("GET", "/projects/vision", None),
        ("GET", "/projects/vision/retention", None),
        ("PUT", "/projects/vision/retention", {"keep_newest": 3}),
    ],
)
async def test_what_a_kind_cannot_do_is_said_with_the_next_step(
    staffed: Staffed, tmp_path: Path, method: str, path: str, body: Any
) -> None:
    added = {"name": "folder1", "kind": "folder", "url": f"file://{tmp_path}"}
    await staffed.world.ask("POST", "/registries", token=staffed.tokens["root"], json=added)
    answer = await staffed.world.ask(method, f"/registries/folder1{path}", token=staffed.tokens["root"], json=body)
    assert (answer.status_code, answer.json()["code"]) == (405, "unsupported"), answer.text
    assert "kind folder" in answer.json()["detail"]
    assert answer.json()["hint"]


# ---- names and limits (N1), before a byte moves


@pytest.mark.parametrize(
    ("kind", "url", "options", "reference", "expected"),
    [
        ("harbor", "https://h.example", {"prefix": "ml/team"}, REF, "ml/team/vision/net:1.0.0"),
        ("hub", "https://registry-1.docker.io", {"prefix": "acme", "flat": True}, REF, "acme/vision__net:1.0.0"),
        ("distribution", "https://r.example", {}, "vision/net:1.0.0+cpu.1", "vision/net:1.0.0_cpu.1"),
        ("hub", "https://registry-1.docker.io", {"prefix": "acme"}, REF, "name_invalid"),
        ("harbor", "https://h.example", {}, "vision/net:" + "1.0.0-" + "a" * 130, "name_invalid"),
        ("harbor", "https://h.example", {}, f"vision/net@{DIGEST}", "invalid_input"),
    ],
)
async def test_a_name_is_checked_without_asking_anybody(
    staffed: Staffed, kind: str, url: str, options: dict[str, Any], reference: str, expected: str
) -> None:
    added = {"name": "r", "kind": kind, "url": url, "options": options}
    root = staffed.tokens["root"]
    assert (await staffed.world.ask("POST", "/registries", token=root, json=added)).status_code == 201
    answer = await staffed.world.ask("POST", "/registries/r/check", token=root, json={"reference": reference})
    if ":" in expected:
        assert answer.status_code == 200, answer.text
        assert f"{answer.json()['repository']}:{answer.json()['tag']}" == expected
    else:
        assert (answer.status_code, answer.json()["code"]) == (400, expected)


async def test_sizes_of_a_version_we_hold_are_compared(staffed: Staffed) -> None:
    await staffed.world.version("vision/net", "1.0.0")
    root = staffed.tokens["root"]
    for name, limit, status in (("roomy", 10**6, 200), ("tight", 3, 413)):
        added = {"name": name, "kind": "distribution", "url": "https://r.example"}
        options = {"capabilities": {"largest_blob": limit}}
        await staffed.world.ask("POST", "/registries", token=root, json={**added, "options": options})
        answer = await staffed.world.ask("POST", f"/registries/{name}/check", token=root, json={"reference": REF})
        assert answer.status_code == status, answer.text
        if status == 200:
            assert answer.json()["checked"] == 3, "manifest, config and layer"
