"""What Harbor does beyond a registry, against a double that is held to Harbor's own API description."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from berth.adapters.registries.contract import (
    Housekeeping,
    Limited,
    Measured,
    Notifying,
    RegistrySettings,
    Scanning,
    Usage,
)
from berth.adapters.registries.harbor import HarborRegistry
from berth.adapters.registries.harbor_projects import ProjectPlan
from berth.errors import Conflict, InvalidInput, NotFound, Unsupported
from tests.contracts.registries.harbor_double import PASSWORD, USER, HarborDouble
from tests.contracts.registries.oci_double import sha256
from tests.unit.wire.conftest import IMPATIENT
from tests.unit.wire.peer import running

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
SECRET = "Bearer webhook-secret"


@pytest.fixture
def double() -> HarborDouble:
    return HarborDouble("ml", "123")


@pytest.fixture
async def harbor(double: HarborDouble) -> AsyncIterator[HarborRegistry]:
    async with running(double) as peer:
        settings = RegistrySettings("h", "harbor", peer.url, USER, PASSWORD, {"prefix": "ml"})
        registry = HarborRegistry(settings, retry=IMPATIENT)
        yield registry
        await registry.close()
    assert double.mistakes == []


async def push(registry: HarborRegistry, tag: str = "1.0.0", **extra: object) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"{}"

    await registry.push_blob("lab/demo", sha256(b"{}"), size=2, chunks=chunks())
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2}
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [config], **extra})
    return await registry.push_manifest("lab/demo", tag, media_type=MANIFEST, body=body.encode())


def test_it_has_the_optional_powers() -> None:
    for power in (Scanning, Measured, Housekeeping, Notifying, Limited):
        assert issubclass(HarborRegistry, power), power


async def test_health_and_version(harbor: HarborRegistry) -> None:
    assert await harbor.health() == {"core": "healthy"}
    assert await harbor.version() == "v2.15.2"


async def test_a_session_cookie_is_never_sent_back(harbor: HarborRegistry, double: HarborDouble) -> None:
    await push(harbor)
    assert await harbor.delete_tag("lab/demo", "1.0.0")
    assert not any("cookie" in asked.headers for asked in double.asked)


async def test_repository_names_are_encoded_twice(harbor: HarborRegistry, double: HarborDouble) -> None:
    digest = await push(harbor)
    await harbor.artifact("lab/demo", digest)
    asked = next(a.target for a in double.asked if "/artifacts/" in a.target)
    assert asked.startswith("/api/v2.0/projects/ml/repositories/lab%252Fdemo/artifacts/sha256%3A")


async def test_projects_are_made_once_and_brought_in_line(harbor: HarborRegistry, double: HarborDouble) -> None:
    plan = ProjectPlan(auto_scan=True, prevent_vulnerable=True, severity="high", cosign_trust=True, storage_limit=10**9)
    assert await harbor.projects.ensure("models", plan)
    assert double.projects["models"].metadata == {
        "public": "false",
        "auto_scan": "true",
        "prevent_vul": "true",
        "severity": "high",
        "enable_content_trust_cosign": "true",
    }
    assert not await harbor.projects.ensure("models", plan)
    assert not await harbor.projects.ensure("models", ProjectPlan(auto_scan=False, storage_limit=-1))
    assert double.projects["models"].metadata["auto_scan"] == "false"
    assert double.projects["models"].metadata["prevent_vul"] == "true"
    assert double.projects["models"].storage == -1
    with pytest.raises(InvalidInput):
        await harbor.projects.ensure("models", ProjectPlan(severity="awful"))
    with pytest.raises(NotFound):
        await harbor.projects.show("nothing")


async def test_a_project_named_by_digits_is_a_name(harbor: HarborRegistry) -> None:
    assert (await harbor.projects.show("123"))["name"] == "123"


async def test_usage_says_used_and_limit(harbor: HarborRegistry, double: HarborDouble) -> None:
    await push(harbor)
    assert await harbor.usage("lab") == Usage(used=2, limit=None)
    double.projects["ml"].storage = 100
    assert await harbor.usage("lab") == Usage(used=2, limit=100)


async def test_a_scan_from_start_to_report(harbor: HarborRegistry, double: HarborDouble) -> None:
    digest = await push(harbor)
    assert (await harbor.scan_state("lab/demo", digest)).state == "none"
    assert await harbor.start_scan("lab/demo", digest)
    assert not await harbor.start_scan("lab/demo", digest)
    assert (await harbor.scan_state("lab/demo", digest)).state == "running"
    assert await harbor.scan_report("lab/demo", digest) is None
    double.scans[digest] = "Success"
    done = await harbor.scan_state("lab/demo", digest)
    assert (done.state, done.severity, done.counts, done.scanner) == ("done", "High", {"high": 1, "low": 2}, "Trivy")
    report = await harbor.scan_report("lab/demo", digest)
    assert report is not None
    assert [v["id"] for body in report.values() for v in body["vulnerabilities"]] == ["CVE-2026-1"]
    assert await harbor.scan_log("lab/demo", digest, done.report_id or "") == "scan 7f0f"
    double.scans[digest] = "Error"
    assert (await harbor.scan_state("lab/demo", digest)).state == "failed"


async def test_content_that_the_scanner_does_not_take_is_unsupported(
    harbor: HarborRegistry, double: HarborDouble
) -> None:
    digest = await push(harbor)
    double.unscannable.add(digest)
    with pytest.raises(Unsupported):
        await harbor.start_scan("lab/demo", digest)


async def test_a_model_has_its_tabs_and_an_image_has_none(harbor: HarborRegistry) -> None:
    model = await push(harbor, artifactType=MODEL)
    assert (await harbor.artifact("lab/demo", model))["type"] == "CNAI"
    assert await harbor.addition("lab/demo", model, "readme.md") == b"# A model"
    image = await push(harbor, "2.0.0")
    assert await harbor.addition("lab/demo", image, "license") is None
    assert await harbor.addition("lab/demo", sha256(b"absent"), "files") is None


async def test_what_was_never_pulled_has_no_time(harbor: HarborRegistry) -> None:
    assert await harbor.last_pull("lab/demo", await push(harbor)) is None


async def test_accessories_are_found(harbor: HarborRegistry) -> None:
    digest = await push(harbor)
    subject = {"mediaType": MANIFEST, "digest": digest, "size": 1}
    referrer = await push(harbor, "ref", subject=subject, artifactType="application/spdx+json")
    assert [a["digest"] for a in await harbor.accessories("lab/demo", digest)] == [referrer]


async def test_an_immutable_tag_is_a_conflict(harbor: HarborRegistry, double: HarborDouble) -> None:
    await push(harbor)
    double.immutable.add("1.0.0")
    with pytest.raises(Conflict):
        await harbor.delete_tag("lab/demo", "1.0.0")


async def test_garbage_collection_is_started_and_watched(harbor: HarborRegistry) -> None:
    run = await harbor.collect_garbage(dry_run=True)
    assert await harbor.garbage_state(run) == "done"


async def test_robots_have_least_rights_and_go_again(harbor: HarborRegistry, double: HarborDouble) -> None:
    robot = await harbor.projects.add_robot("ml", "publish")
    assert (robot.name, robot.secret) == ("robot$ml+publish", "shown once")
    assert "shown once" not in repr(robot)
    access = double.robots[0]["permissions"][0]["access"]
    assert {"resource": "repository", "action": "push"} in access
    assert not any(a["resource"] in ("project", "member", "robot") for a in access)
    assert [r["id"] for r in await harbor.projects.robots("ml")] == [robot.id]
    assert await harbor.projects.robots("123") == []
    with pytest.raises(Conflict):
        await harbor.projects.add_robot("ml", "publish")
    assert await harbor.projects.remove_robot(robot.id)
    assert not await harbor.projects.remove_robot(robot.id)


async def test_rules_are_said_again_without_doubling(harbor: HarborRegistry, double: HarborDouble) -> None:
    projects = harbor.projects
    assert await projects.ensure_immutable("ml", tags="[0-9]*")
    assert not await projects.ensure_immutable("ml", tags="[0-9]*")
    assert await projects.ensure_immutable("ml", tags="v*")
    policy = await projects.ensure_retention("ml", keep_newest=10)
    assert await projects.ensure_retention("ml", keep_newest=5) == policy
    assert double.retentions[0]["rules"][0]["params"] == {"latestPushedK": 5}
    await projects.start_retention(policy)
    hook = {"address": "https://berth.example/hooks/harbor", "secret": SECRET}
    assert await projects.ensure_webhook("ml", "berth", **hook)
    assert not await projects.ensure_webhook("ml", "berth", **hook)
    assert len(double.projects["ml"].webhooks) == 1


async def test_lists_page_by_number(harbor: HarborRegistry, double: HarborDouble) -> None:
    await push(harbor)
    first = await harbor.repositories(limit=1)
    assert (list(first.items), first.after) == (["lab/demo"], "2")
    assert list((await harbor.repositories(after="2", limit=1)).items) == []


async def test_every_operation_of_the_description_is_used(harbor: HarborRegistry, double: HarborDouble) -> None:
    """What is vendored is what is needed."""
    projects = harbor.projects
    digest = await push(harbor)
    await harbor.health(), await harbor.version(), await harbor.repositories(), await harbor.usage("lab")
    await projects.ensure("models", ProjectPlan(public=True))
    await projects.ensure("models", ProjectPlan(public=False, storage_limit=5))
    await harbor.accessories("lab/demo", digest), await harbor.addition("lab/demo", digest, "files")
    await harbor.start_scan("lab/demo", digest), await harbor.scan_report("lab/demo", digest)
    await harbor.scan_log("lab/demo", digest, "1")
    await harbor.garbage_state(await harbor.collect_garbage())
    await projects.remove_robot((await projects.add_robot("ml", "r")).id), await projects.robots("ml")
    await projects.ensure_immutable("ml")
    await projects.start_retention(await projects.ensure_retention("ml", keep_newest=1))
    await projects.ensure_retention("ml", keep_newest=2)
    for _ in range(2):
        await projects.ensure_webhook("ml", "berth", address="https://berth.example", secret=SECRET)
    await harbor.scan_state("lab/demo", digest)
    await harbor.delete_tag("lab/demo", "1.0.0"), await harbor.delete_manifest("lab/demo", digest)
    # Left: the list without a prefix, and the list of clean-ups for a Harbor that does not say which one it started.
    assert double.schema.operations - double.schema.used == {"listAllRepositories", "getGCHistory"}


async def test_without_a_prefix_every_project_is_listed(double: HarborDouble) -> None:
    async with running(double) as peer:
        registry = HarborRegistry(RegistrySettings("h", "harbor", peer.url, USER, PASSWORD), retry=IMPATIENT)
        assert list((await registry.repositories()).items) == []
        await registry.close()
    assert (double.mistakes, double.schema.used) == ([], {"listAllRepositories"})


@pytest.mark.parametrize("create", [False, True])
async def test_a_missing_project_is_made_only_when_that_is_wanted(double: HarborDouble, create: bool) -> None:
    async with running(double) as peer:
        options = {"create_projects": create}
        registry = HarborRegistry(RegistrySettings("h", "harbor", peer.url, USER, PASSWORD, options), retry=IMPATIENT)
        if create:
            await push(registry)
            assert double.projects["lab"].metadata == {"public": "false"}
        else:
            with pytest.raises(NotFound, match="project lab"):
                await push(registry)
        await registry.close()
    assert double.mistakes == []
