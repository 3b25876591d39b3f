"""What TrivyScanner finds, and what it says when it can't look: design §6 "Scanning". The Trivy is the real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from berth.adapters.scanners.contract import ScanResult
from berth.adapters.scanners.trivy import TrivyScanner
from tests.support.advisories import AdvisoryRegistry, advisory_artifact
from tests.unit.scanners import made
from tests.unit.scanners.made import DEBIAN, Depot, dist_info, dpkg

VULNERABLE = {
    **DEBIAN,
    **dpkg(zlib1g="1:1.2.11.dfsg-2"),
    **dist_info("requests", "2.25.1"),
    **dist_info("berth-vulnerable-example", "1.0.0"),
}
CLEAN = {**DEBIAN, **dpkg(zlib1g="1:9.9"), **dist_info("requests", "2.33.0")}


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    return Depot(tmp_path / "depot")


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trivy")


@pytest.fixture
def trivy(shared_cache: Path, advisory_registry: AdvisoryRegistry) -> TrivyScanner:
    return TrivyScanner(None, shared_cache, advisory_registry.reference, None, None, 60)


def script(folder: Path, body: str) -> str:
    """A program that stands in for Trivy; database downloads work, scans do `body`."""
    path = folder / "trivy"
    metadata = '{"Version":2,"NextUpdate":"2099-01-01T00:00:00Z","UpdatedAt":"2026-01-01T00:00:00Z","DownloadedAt":'
    now = datetime.now(UTC).isoformat()
    path.write_text(
        "#!/bin/sh\n"
        'if [ "$2" = --download-db-only ]; then mkdir -p "$4/db"; echo x > "$4/db/trivy.db"; '
        f"""printf '%s' '{metadata}"{now}"}}' > "$4/db/metadata.json"; exit 0; fi\n{body}\n"""
    )
    path.chmod(0o755)
    return str(path)


def codes(result: ScanResult) -> list[str]:
    return [problem.code for problem in result.summary.problems]


async def test_known_vulnerabilities_are_counted_by_severity_and_fix(depot: Depot, trivy: TrivyScanner) -> None:
    result = await trivy.scan(depot.image(VULNERABLE))

    assert result.status == "ok"
    # By hand from demo/advisories/advisories.json: zlib has two CRITICAL ones, one without a fix.
    assert result.summary.to_json()["severities"] == {
        "CRITICAL": {"total": 3, "fixable": 2},
        "HIGH": {"total": 0, "fixable": 0},
        "MEDIUM": {"total": 2, "fixable": 2},
        "LOW": {"total": 0, "fixable": 0},
        "UNKNOWN": {"total": 0, "fixable": 0},
    }
    found = {(top.id, top.package, top.installed, top.fixed) for top in result.summary.top}
    assert found == {
        ("CVE-2023-32681", "requests", "2.25.1", "2.31.0"),
        ("CVE-2024-35195", "requests", "2.25.1", "2.32.0"),
        ("CVE-2022-37434", "zlib1g", "1:1.2.11.dfsg-2", "1:1.2.13.dfsg-1"),
        ("CVE-2023-45853", "zlib1g", "1:1.2.11.dfsg-2", ""),
        ("BERTH-TEST-0001", "berth-vulnerable-example", "1.0.0", "1.0.1"),
    }
    assert result.summary.top[0].severity == "CRITICAL"


async def test_an_image_of_fixed_versions_is_clean(depot: Depot, trivy: TrivyScanner) -> None:
    result = await trivy.scan(depot.image({**CLEAN, **dpkg(zlib1g="1:1.3.1", nothing="1")}, compression="gzip"))

    assert result.status == "ok"
    assert [top.id for top in result.summary.top] == ["CVE-2023-45853"]  # Debian says: no fix in any version
    assert result.summary.to_json()["severities"]["CRITICAL"]["fixable"] == 0


@pytest.mark.parametrize("compression", ["plain", "gzip", "zstd"])
async def test_layers_may_be_plain_gzip_or_zstd(depot: Depot, trivy: TrivyScanner, compression: str) -> None:
    result = await trivy.scan(depot.image(dist_info("requests", "2.25.1"), DEBIAN, compression=compression))

    assert (result.status, len(result.summary.top)) == ("ok", 2)


async def test_docker_schema_2_is_scanned_like_oci(depot: Depot, trivy: TrivyScanner) -> None:
    result = await trivy.scan(depot.image(VULNERABLE, docker=True))

    assert (result.status, len(result.summary.top)) == ("ok", 5)


async def test_evidence_and_report_name_the_database(
    depot: Depot, trivy: TrivyScanner, advisory_registry: AdvisoryRegistry
) -> None:
    result = await trivy.scan(depot.image(CLEAN))

    assert result.database["repository"] == advisory_registry.reference
    assert result.database["digest"].startswith("sha256:")
    assert datetime.fromisoformat(result.database["updated_at"]) <= datetime.now(UTC)
    report = json.loads(result.report)
    assert report["Berth"]["Database"] == result.database
    assert report["SchemaVersion"] == 2
    assert result.tool_version


async def test_the_depot_is_left_unchanged(depot: Depot, trivy: TrivyScanner) -> None:
    subject = depot.image(VULNERABLE)
    before = {path.name: (path.read_bytes(), path.stat().st_ino) for path in depot.folder.iterdir()}

    await trivy.scan(subject)

    assert {path.name: (path.read_bytes(), path.stat().st_ino) for path in depot.folder.iterdir()} == before


async def test_a_secret_is_suspicious_and_not_quoted(depot: Depot, trivy: TrivyScanner) -> None:
    key = "AKIA" + "Q3EGRIPHJYB6KXJW"
    result = await trivy.scan(depot.image({**CLEAN, "opt/.env": f"AWS_ACCESS_KEY_ID={key}\n".encode()}))

    assert [finding.path for finding in result.summary.suspicious] == ["/opt/.env"]
    assert key not in json.dumps(result.summary.to_json())


async def test_ignore_files_and_settings_inside_an_image_or_beside_us_do_not_count(
    depot: Depot, trivy: TrivyScanner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".trivyignore").write_text("CVE-2023-32681\n")
    (tmp_path / "trivy.yaml").write_text("severity: [LOW]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIVY_SEVERITY", "LOW")
    monkeypatch.setenv("TRIVY_IGNORE_UNFIXED", "true")

    result = await trivy.scan(depot.image({**VULNERABLE, ".trivyignore": b"CVE-2024-35195\n"}))

    assert len(result.summary.top) == 5


async def test_no_os_and_no_packages_is_inconclusive(depot: Depot, trivy: TrivyScanner) -> None:
    result = await trivy.scan(depot.image({"hello.txt": b"hello"}))

    assert (result.status, codes(result)) == ("inconclusive", ["packages.none"])


async def test_an_os_whose_packages_were_removed_is_inconclusive(depot: Depot, trivy: TrivyScanner) -> None:
    result = await trivy.scan(depot.image(DEBIAN))

    assert (result.status, codes(result)) == ("inconclusive", ["os.no_packages"])


async def test_a_checkpoint_is_not_an_image(depot: Depot, trivy: TrivyScanner) -> None:
    result = await trivy.scan(depot.checkpoint(b"weights"))

    assert (result.status, codes(result)) == ("inconclusive", ["manifest.not_an_image"])


async def test_a_layer_elsewhere_is_inconclusive(depot: Depot, trivy: TrivyScanner) -> None:
    result = await trivy.scan(depot.image(CLEAN, layer={"urls": ["https://elsewhere.test/layer"]}))

    assert (result.status, codes(result)) == ("inconclusive", ["layer.foreign"])


async def test_a_missing_blob_is_inconclusive(depot: Depot, trivy: TrivyScanner) -> None:
    subject = depot.image(CLEAN)
    layer = json.loads(subject.manifest)["layers"][0]["digest"]
    depot.path_of(layer).unlink()

    assert codes(await trivy.scan(subject)) == ["layer.missing"]


async def test_a_layer_that_is_no_archive_fails_with_what_trivy_says(depot: Depot, trivy: TrivyScanner) -> None:
    result = await trivy.scan(depot.image(b"this is no tar" * 100))

    assert (result.status, codes(result)) == ("failed", ["trivy.crashed"])
    assert "exit code" in result.summary.problems[0].message


async def test_no_reachable_database_is_inconclusive(depot: Depot, tmp_path: Path) -> None:
    trivy = TrivyScanner(None, tmp_path / "cache", "127.0.0.1:1/trivy-db:2", None, None, 30)

    result = await trivy.scan(depot.image(VULNERABLE))

    assert (result.status, codes(result)) == ("inconclusive", ["database.unavailable"])
    assert "connection refused" in result.summary.problems[0].message
    assert "BERTH_TRIVY_DB_REPOSITORY" in result.summary.problems[0].message


async def test_a_database_behind_a_login_needs_the_right_one(depot: Depot, tmp_path: Path) -> None:
    with AdvisoryRegistry(advisory_artifact(tmp_path / "a"), login=("ann", "hunter2")) as registry:

        async def status(password: str) -> str:
            trivy = TrivyScanner(None, tmp_path / password, registry.reference, "ann", password, 30)
            result = await trivy.scan(depot.image(CLEAN))
            assert "hunter2" not in result.log + json.dumps(result.summary.to_json())
            return result.status

        assert await status("wrong") == "inconclusive"
        assert await status("hunter2") == "ok"


async def test_four_scans_at_once_share_one_download(depot: Depot, tmp_path: Path) -> None:
    with AdvisoryRegistry(advisory_artifact(tmp_path / "a")) as registry:
        trivy = TrivyScanner(None, tmp_path / "cache", registry.reference, None, None, 60)
        other = TrivyScanner(None, tmp_path / "cache", registry.reference, None, None, 60)  # as in another process
        subjects = [depot.image(VULNERABLE, {"n": bytes([n])}) for n in range(4)]

        results = await asyncio.gather(*(s.scan(i) for s, i in zip([trivy, other] * 2, subjects, strict=True)))

        assert [(r.status, len(r.summary.top)) for r in results] == [("ok", 5)] * 4
        assert registry.downloads == 1


async def test_a_newer_database_is_fetched_once_the_old_one_is_due(depot: Depot, tmp_path: Path) -> None:
    clock = [datetime.now(UTC)]
    yesterday = clock[0] - timedelta(days=1)
    with AdvisoryRegistry(advisory_artifact(tmp_path / "a", updated_at=yesterday)) as registry:
        trivy = TrivyScanner(None, tmp_path / "cache", registry.reference, None, None, 60, now=lambda: clock[0])
        subject = depot.image(CLEAN)
        first = await trivy.scan(subject)
        registry.artifact = advisory_artifact(tmp_path / "b", updated_at=clock[0])

        clock[0] += timedelta(minutes=59)
        assert (await trivy.scan(subject)).database == first.database
        clock[0] += timedelta(minutes=2)
        second = await trivy.scan(subject)

    assert second.database["updated_at"] > first.database["updated_at"]
    generations = [path for path in (tmp_path / "cache" / "databases").iterdir() if path.is_dir()]
    assert len({path.resolve() for path in generations}) == 1


async def test_an_old_database_serves_on_while_a_newer_one_cannot_be_had(depot: Depot, tmp_path: Path) -> None:
    clock = [datetime.now(UTC)]
    with AdvisoryRegistry(advisory_artifact(tmp_path / "a")) as registry:
        trivy = TrivyScanner(None, tmp_path / "cache", registry.reference, None, None, 60, now=lambda: clock[0])
        await trivy.version()
    clock[0] += timedelta(hours=25)

    result = await trivy.scan(depot.image(VULNERABLE))

    assert (result.status, codes(result)) == ("ok", ["database.not_refreshed"])
    assert len(result.summary.top) == 5


async def test_trivy_missing_fails_and_says_what_to_install(depot: Depot, tmp_path: Path) -> None:
    trivy = TrivyScanner(str(tmp_path / "no-trivy"), tmp_path / "cache", None, None, None, 5)

    result = await trivy.scan(depot.image(CLEAN))

    assert (result.status, codes(result)) == ("failed", ["trivy.missing"])
    assert (await trivy.version())["version"] == ""


BROKEN: list[tuple[str, str, str]] = [
    ("crashing", "echo 'FATAL the disk is full' >&2; exit 3", "trivy.crashed"),
    ("killed", "kill -9 $$", "trivy.crashed"),
    ("silent", "exit 0", "trivy.no_report"),
    ("garbage", "echo '<html>' > report.json", "trivy.report_invalid"),
    ("an empty file", ": > report.json", "trivy.report_invalid"),
    ("a list", "echo '[]' > report.json", "trivy.report_invalid"),
    ("an empty object", "echo '{}' > report.json", "trivy.report_invalid"),
    ("another schema", """echo '{"SchemaVersion":3,"ArtifactName":"x"}' > report.json""", "trivy.report_invalid"),
    (
        "results of a wrong type",
        """echo '{"SchemaVersion":2,"ArtifactName":"x","Results":{"a":1}}' > report.json""",
        "trivy.report_invalid",
    ),
    (
        "a vulnerability without a name",
        """echo '{"SchemaVersion":2,"ArtifactName":"x","Results":[{"Vulnerabilities":[{}]}]}' > report.json""",
        "trivy.report_invalid",
    ),
]


@pytest.mark.parametrize(("body", "code"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
async def test_a_broken_trivy_is_a_failed_scan(depot: Depot, tmp_path: Path, body: str, code: str) -> None:
    trivy = TrivyScanner(script(tmp_path, body), tmp_path / "cache", None, None, None, 20)

    result = await trivy.scan(depot.image(CLEAN))

    assert (result.status, codes(result)) == ("failed", [code])


async def test_a_hanging_trivy_is_killed_with_its_children(depot: Depot, tmp_path: Path) -> None:
    left = tmp_path / "child"
    body = f"sleep 600 & echo $! > {left}; sleep 600"
    trivy = TrivyScanner(script(tmp_path, body), tmp_path / "cache", None, None, None, 1)

    result = await trivy.scan(depot.image(CLEAN))

    assert (result.status, codes(result)) == ("failed", ["trivy.timeout"])
    assert result.finished_at - result.started_at < timedelta(seconds=15)
    await _gone(int(left.read_text()))
    assert not list((tmp_path / "cache" / "work").iterdir())


async def test_a_cancelled_scan_leaves_no_process(depot: Depot, tmp_path: Path) -> None:
    left = tmp_path / "pid"
    trivy = TrivyScanner(script(tmp_path, f"echo $$ > {left}; sleep 600"), tmp_path / "cache", None, None, None, 600)
    task = asyncio.create_task(trivy.scan(depot.image(CLEAN)))
    await _until(lambda: left.exists() and left.read_text().strip() != "")

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await _gone(int(left.read_text()))


async def test_version_names_tool_and_database(trivy: TrivyScanner, advisory_registry: AdvisoryRegistry) -> None:
    answer: dict[str, Any] = await trivy.version()

    assert answer["tool"] == "trivy"
    assert answer["version"].count(".") == 2
    assert answer["database"]["repository"] == advisory_registry.reference


async def _gone(pid: int) -> None:
    def ended() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    await _until(ended)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


def test_made_digests_are_those_of_the_bytes() -> None:
    # printf '' | sha256sum
    assert made.sha256(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
