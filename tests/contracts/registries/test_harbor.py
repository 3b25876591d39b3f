"""What Harbor does beyond a registry, against a double that is held to Harbor's own API description."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from berth.adapters.registries.contract import (
    Administered,
    Health,
    Hooking,
    Housekeeping,
    Informed,
    Limited,
    Measured,
    Notifying,
    ProjectPlan,
    RegistrySettings,
    ScanLogging,
    Scanning,
    Usage,
    Watched,
)
from berth.adapters.registries.harbor import HarborRegistry
from berth.errors import Conflict, Denied, InvalidInput, NotFound, RemoteAuthError, StorageFull, Unsupported
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
    powers = (Scanning, ScanLogging, Measured, Housekeeping, Notifying, Hooking, Limited, Informed, Watched)
    for power in powers:
        assert issubclass(HarborRegistry, power), power
    registry = HarborRegistry(RegistrySettings("h", "harbor", "https://harbor.example"))
    assert isinstance(registry, Administered)


async def test_health_says_which_part_is_ill_and_whether_writing_works(
    harbor: HarborRegistry, double: HarborDouble
) -> None:
    assert await harbor.health() == Health(True, {"core": "healthy"}, "v2.15.2", False)
    double.sick, double.read_only = "failed to ping database", True
    assert await harbor.health() == Health(False, {"core": "failed to ping database"}, "v2.15.2", True)


async def test_a_session_cookie_is_never_sent_back(harbor: HarborRegistry, double: HarborDouble) -> None:
    await push(harbor)
    assert await harbor.delete_tag("lab/demo", "1.0.0")
    assert not any("cookie" in asked.headers for asked in double.asked)


async def test_repository_names_are_encoded_twice(harbor: HarborRegistry, double: HarborDouble) -> None:
    digest = await push(harbor)
    await harbor.raw_artifact("lab/demo", digest)
    asked = next(a.target for a in double.asked if "/artifacts/" in a.target)
    assert asked.startswith("/api/v2.0/projects/ml/repositories/lab%252Fdemo/artifacts/sha256%3A")


async def test_projects_are_made_once_and_brought_in_line(double: HarborDouble) -> None:
    async with running(double) as peer:
        registry = HarborRegistry(RegistrySettings("h", "harbor", peer.url, USER, PASSWORD), retry=IMPATIENT)
        projects = registry.administration
        plan = ProjectPlan(
            auto_scan=True, prevent_vulnerable=True, severity="high", cosign_trust=True, storage_limit=10**9
        )
        said = await projects.ensure("models", plan, dry_run=True)
        assert said[0] == "project models: none → made"
        assert "models" not in double.projects
        assert await projects.ensure("models", plan) == said
        assert double.projects["models"].metadata == {
            "public": "false",
            "auto_scan": "true",
            "prevent_vul": "true",
            "severity": "high",
            "enable_content_trust_cosign": "true",
        }
        assert await projects.ensure("models", plan) == []
        change = ProjectPlan(auto_scan=False, storage_limit=-1)
        expected = ["auto_scan: true → false", "storage: 1000000000 bytes → none"]
        assert await projects.ensure("models", change, dry_run=True) == expected
        assert double.projects["models"].metadata["auto_scan"] == "true"
        assert await projects.ensure("models", change) == expected
        assert double.projects["models"].metadata["auto_scan"] == "false"
        assert double.projects["models"].metadata["prevent_vul"] == "true"
        assert double.projects["models"].storage == -1
        with pytest.raises(InvalidInput):
            await projects.ensure("models", ProjectPlan(severity="awful"))
        with pytest.raises(NotFound):
            await projects.raw("nothing")
        await registry.close()
    assert double.mistakes == []


async def test_a_storage_limit_that_harbor_replaced_is_not_taken_for_ours(double: HarborDouble) -> None:
    """From whoever is no system administrator Harbor takes its own default, and answers 201."""
    double.admin = False
    async with running(double) as peer:
        registry = HarborRegistry(RegistrySettings("h", "harbor", peer.url, USER, PASSWORD), retry=IMPATIENT)
        with pytest.raises(RemoteAuthError, match="its own default storage limit"):
            await registry.administration.ensure("models", ProjectPlan(storage_limit=10**9))
        assert await registry.administration.ensure("others", ProjectPlan(auto_scan=True))
        await registry.close()


async def test_a_project_named_by_digits_is_a_name(double: HarborDouble) -> None:
    async with running(double) as peer:
        registry = HarborRegistry(RegistrySettings("h", "harbor", peer.url, USER, PASSWORD), retry=IMPATIENT)
        assert (await registry.administration.show("123")).name == "123"
        await registry.close()


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
    assert (await harbor.artifact("lab/demo", model)).type == "CNAI"
    assert await harbor.addition("lab/demo", model, "readme.md") == b"# A model"
    image = await push(harbor, "2.0.0")
    assert await harbor.addition("lab/demo", image, "license") is None
    assert await harbor.addition("lab/demo", sha256(b"absent"), "files") is None


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


async def test_garbage_collection_is_started_watched_and_read(harbor: HarborRegistry, double: HarborDouble) -> None:
    run = await harbor.collect_garbage(dry_run=True)
    assert json.loads(double.collections[0]["job_parameters"])["dry_run"] is True
    assert await harbor.garbage_state(run) == "done"
    assert "2 blobs" in await harbor.garbage_log(run)
    double.collections[0]["job_status"] = "Running"
    assert await harbor.garbage_state(run) == "running"
    with pytest.raises(Conflict, match="is running: 1"):
        await harbor.collect_garbage()
    double.collections[0]["job_status"] = "Error"
    assert await harbor.garbage_state(run) == "failed"
    double.too_soon = True
    with pytest.raises(Conflict) as soon:
        await harbor.collect_garbage()
    assert "one a minute" in str(soon.value)
    for unknown in ("7", "x", "../1", "²"):
        with pytest.raises(NotFound):
            await harbor.garbage_log(unknown)
    double.collections, double.admin, double.too_soon = [], False, False
    with pytest.raises(RemoteAuthError):
        await harbor.collect_garbage()


@pytest.mark.parametrize("publishes", [True, False])
async def test_robots_have_least_rights_and_go_again(
    harbor: HarborRegistry, double: HarborDouble, publishes: bool
) -> None:
    projects = harbor.administration
    robot = await projects.add_robot("ml", "publish", publishes=publishes)
    assert (robot.name, robot.secret) == ("robot$ml+publish", "shown once")
    assert "shown once" not in repr(robot)
    access = {(a["resource"], a["action"]) for a in double.robots[0]["permissions"][0]["access"]}
    assert (("repository", "push") in access, ("tag", "delete") in access) == (publishes, publishes)
    assert not {resource for resource, _ in access} & {"project", "member", "robot", "quota", "notification-policy"}
    [listed] = await projects.robots("ml")
    assert (listed.id, set(listed.rights), listed.secret) == (robot.id, set(robot.rights), None)
    renewed = await projects.renew_robot("ml", robot.id)
    assert renewed.secret == "another one"
    with pytest.raises(Conflict):
        await projects.add_robot("ml", "publish")
    assert await projects.remove_robot("ml", robot.id)
    assert not await projects.remove_robot("ml", robot.id)
    with pytest.raises(NotFound):
        await projects.renew_robot("ml", robot.id)


async def test_a_robot_of_another_project_is_none_of_this_one(double: HarborDouble) -> None:
    """Numbers of robots are Harbor's own over all projects."""
    async with running(double) as peer:
        registry = HarborRegistry(RegistrySettings("h", "harbor", peer.url, USER, PASSWORD), retry=IMPATIENT)
        robot = await registry.administration.add_robot("ml", "r")
        assert not await registry.administration.remove_robot("123", robot.id)
        assert len(double.robots) == 1
        await registry.close()


async def test_rules_are_said_again_without_doubling(harbor: HarborRegistry, double: HarborDouble) -> None:
    projects = harbor.administration
    assert await projects.protect("ml", tags="[0-9]*", dry_run=True)
    assert double.projects["ml"].rules == []
    assert await projects.protect("ml", tags="[0-9]*")
    assert not await projects.protect("ml", tags="[0-9]*")
    assert await projects.protect("ml", tags="v*")
    assert [(r.tags, r.repositories, r.enabled) for r in await projects.rules("ml")] == [
        ("[0-9]*", "**", True),
        ("v*", "**", True),
    ]
    assert await projects.unprotect("ml", 1)
    assert not await projects.unprotect("ml", 1)
    hook = {"address": "https://berth.example/hooks/harbor", "secret": SECRET}
    assert await projects.ensure_webhook("ml", "berth", **hook)
    assert not await projects.ensure_webhook("ml", "berth", **hook)
    assert len(double.projects["ml"].webhooks) == 1


async def test_retention_is_seen_before_it_deletes(harbor: HarborRegistry, double: HarborDouble) -> None:
    projects = harbor.administration
    for call in (projects.start_retention("ml"), projects.retention_run("ml", 1)):
        with pytest.raises(NotFound, match="keeps everything"):
            await call
    expected = ["kept: everything → 10", "schedule: None → 0 0 0 * * *"]
    assert await projects.keep_newest("ml", 10, dry_run=True) == expected
    assert double.retentions == []
    assert await projects.keep_newest("ml", 10) == expected
    assert await projects.keep_newest("ml", 10) == []
    assert await projects.keep_newest("ml", 5) == ["kept: 10 → 5"]
    assert double.retentions[0]["rules"][0]["params"] == {"latestPushedK": 5}
    shown = (await projects.show("ml")).retention
    assert shown is not None
    assert (shown.keep_newest, shown.schedule) == (5, "0 0 0 * * *")
    run = await projects.start_retention("ml")
    assert double.executions[0]["dry_run"] is True
    found = await projects.retention_run("ml", run)
    assert (found.state, found.dry_run, found.repositories) == ("done", True, {"lab/demo": (12, 10)})
    with pytest.raises(NotFound):
        await projects.retention_run("ml", 99)


async def test_what_harbor_knows_of_a_model(harbor: HarborRegistry, double: HarborDouble) -> None:
    digest = await push(harbor, artifactType=MODEL)
    subject = {"mediaType": MANIFEST, "digest": digest, "size": 1}
    referrer = await push(harbor, "ref", subject=subject, artifactType="application/spdx+json")
    found = await harbor.artifact("lab/demo", "1.0.0")
    assert (found.digest, found.type, found.tags, found.pulled_at) == (digest, "CNAI", ["1.0.0"], None)
    assert (found.tabs, found.repository_pulls) == (["files", "license", "readme.md"], 0)
    assert [(a.type, a.digest) for a in found.accessories] == [("subject.accessory", referrer)]
    double.pulls = 3
    pulled = await harbor.artifact("lab/demo", "1.0.0")
    assert (pulled.repository_pulls, str(pulled.pulled_at)) == (3, "2026-05-04 08:00:00+00:00")
    with pytest.raises(NotFound):
        await harbor.artifact("lab/demo", "9.9.9")


# ---- what Harbor refuses on its own account (registries.md §4)


@pytest.mark.parametrize(
    "said",
    [
        "The image is not signed by cosign.",
        "current image with 3 vulnerabilities cannot be pulled due to configured policy in 'Prevent vulnerable images'",
    ],
)
async def test_what_harbors_own_gate_refuses_is_a_denial_with_its_words(
    harbor: HarborRegistry, double: HarborDouble, said: str
) -> None:
    """412 PROJECTPOLICYVIOLATION to GET and HEAD, under content trust or prevent_vul; HEAD has no body to say why."""
    digest = await push(harbor)
    assert await harbor.stat("lab/demo", "1.0.0") is not None
    double.gated[digest] = said
    for call in (
        harbor.stat("lab/demo", "1.0.0"),
        harbor.stat("lab/demo", digest),
        harbor.manifest("lab/demo", digest),
    ):
        with pytest.raises(Denied) as refused:
            await call
        assert said in refused.value.message
        assert refused.value.reasons == [{"code": "harbor.policy", "message": said}]


async def test_a_full_project_is_not_mistaken_for_missing_rights(harbor: HarborRegistry, double: HarborDouble) -> None:
    double.projects["ml"].storage = 2
    with pytest.raises(StorageFull, match="exceed the configured upper limit"):
        await push(harbor)
    double.projects["ml"].storage = 10_000
    assert await push(harbor)


async def test_a_tag_under_an_immutable_rule_is_not_moved(harbor: HarborRegistry, double: HarborDouble) -> None:
    first = await push(harbor)
    double.immutable.add("1.0.0")
    assert await push(harbor) == first, "the same bytes again are no failure"
    with pytest.raises(Conflict, match="immutable"):
        await push(harbor, annotations={"other": "bytes"})


async def test_nothing_is_pushed_to_a_proxy_cache(harbor: HarborRegistry, double: HarborDouble) -> None:
    double.projects["ml"].proxy = True
    with pytest.raises(Unsupported, match="proxy project"):
        await push(harbor)


async def test_lists_page_by_number(harbor: HarborRegistry, double: HarborDouble) -> None:
    await push(harbor)
    first = await harbor.repositories(limit=1)
    assert (list(first.items), first.after) == (["lab/demo"], "2")
    assert list((await harbor.repositories(after="2", limit=1)).items) == []


async def test_every_operation_of_the_description_is_used(double: HarborDouble) -> None:
    """What is vendored is what is needed."""
    async with running(double) as peer:
        harbor = HarborRegistry(RegistrySettings("h", "harbor", peer.url, USER, PASSWORD), retry=IMPATIENT)
        projects = harbor.administration
        await harbor.repositories()
        await projects.ensure("lab", ProjectPlan(public=True))
        await projects.ensure("lab", ProjectPlan(public=False, storage_limit=10**6))
        digest = await push(harbor)
        await harbor.health(), await harbor.usage("lab"), await harbor.artifact("lab/demo", digest)
        await harbor.addition("lab/demo", digest, "files")
        await harbor.start_scan("lab/demo", digest), await harbor.scan_state("lab/demo", digest)
        await harbor.scan_report("lab/demo", digest), await harbor.scan_log("lab/demo", digest, "1")
        run = await harbor.collect_garbage()
        await harbor.garbage_state(run), await harbor.garbage_log(run)
        robot = await projects.add_robot("lab", "r")
        await projects.renew_robot("lab", robot.id), await projects.remove_robot("lab", robot.id)
        await projects.protect("lab"), await projects.unprotect("lab", 1)
        await projects.keep_newest("lab", 1), await projects.keep_newest("lab", 2)
        await projects.retention_run("lab", await projects.start_retention("lab"))
        await projects.show("lab")
        for _ in range(2):
            await projects.ensure_webhook("lab", "berth", address="https://berth.example", secret=SECRET)
        await harbor.delete_tag("lab/demo", "1.0.0"), await harbor.delete_manifest("lab/demo", digest)
        await harbor.close()
    assert double.mistakes == []
    # Left: the list below a prefix.
    assert double.schema.operations - double.schema.used == {"listRepositories"}


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
