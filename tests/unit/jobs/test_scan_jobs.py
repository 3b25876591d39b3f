"""Scan jobs: evidence comes from a scan of the very bytes, once, and again when it is due (design §6 "Scanning")."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from berth.adapters.scanners.contract import Problem, ScanResult, Subject, Summary
from berth.errors import BlobUnknown
from berth.jobs import rescan_due, scan_vulnerabilities, scan_weights
from berth.jobs.context import JobContext
from tests.unit.server.gateway.conftest import installation as installation
from tests.unit.server.gateway.registry import Client, Image, Installation

UPDATED = "2026-01-01T00:00:00Z"


@dataclass
class FakeScanner:
    """Reads every blob of its subject and answers what the test says."""

    kind: Any
    clock: list[datetime]
    status: Any = "ok"
    updated_at: str | None = None
    seen: list[tuple[str, int]] = field(default_factory=list)

    async def version(self) -> dict[str, Any]:
        return {"tool": "fake", "version": "1", "database": {"updated_at": self.updated_at} if self.updated_at else {}}

    async def scan(self, subject: Subject) -> ScanResult:
        manifest = json.loads(subject.manifest)
        for blob in (manifest["config"], *manifest["layers"]):
            assert len(subject.path_of(blob["digest"]).read_bytes()) == blob["size"]
        self.seen.append((subject.digest, len(manifest["layers"])))
        return self.answer()

    def answer(self) -> ScanResult:
        problems = () if self.status == "ok" else (Problem("x.y", "could not"),)
        return ScanResult(
            kind=self.kind,
            status=self.status,
            summary=Summary(problems=problems),
            tool="fake",
            tool_version="1",
            database={"updated_at": self.updated_at} if self.updated_at else {},
            report=b'{"full": "report"}',
            report_media_type="application/vnd.berth.report.trivy.v1+json",
            log="what it said",
            started_at=self.clock[0],
            finished_at=self.clock[0],
        )


@dataclass
class Place:
    context: JobContext
    image: Image
    clock: list[datetime]
    vulnerabilities: FakeScanner
    weights: FakeScanner

    async def evidence(self) -> list[tuple[str, str]]:
        async with self.context.db.reading() as conn:
            rows = await conn.execute(text("select kind, status from evidence order by id"))
            return [(row.kind, row.status) for row in rows]

    async def waiting(self) -> list[tuple[str, str]]:
        """(job, reason) of the scan jobs on the queue; takes them off."""
        async with self.context.db.transaction() as conn:
            rows = await conn.execute(
                text(
                    "select task_name, args->>'input_version' as reason from procrastinate_jobs"
                    " where queue_name = 'scan' and status = 'todo' order by task_name"
                )
            )
            found = [(row.task_name, row.reason) for row in rows]
            await conn.execute(text("delete from procrastinate_jobs where queue_name = 'scan'"))
            return found

    async def scan_both(self) -> None:
        await scan_vulnerabilities.run(self.context, digest=self.image.digest)
        await scan_weights.run(self.context, digest=self.image.digest)


@pytest.fixture
async def place(installation: Installation) -> Place:
    await installation.project("lab", "scanned")
    developer: Client = await installation.user("dev", "lab", "maintainer")
    image = await developer.image("lab/demo", "1.0.0")
    clock = [installation.services.clock()]
    vulnerabilities = FakeScanner("vulnerabilities", clock, updated_at=UPDATED)
    weights = FakeScanner("weights", clock)
    context = JobContext(
        db=installation.services.db,
        store=installation.services.store,
        vulnerability_scanner=vulnerabilities,
        weight_scanner=weights,
        settings=installation.services.settings,
        now=lambda: clock[0],
    )
    made = Place(context, image, clock, vulnerabilities, weights)
    await made.waiting()
    return made


async def test_a_scan_reads_the_content_and_becomes_evidence_with_its_report(place: Place) -> None:
    await place.scan_both()

    assert await place.evidence() == [("vulnerabilities", "ok"), ("weights", "ok")]
    assert place.vulnerabilities.seen == [(place.image.digest, 1)]
    async with place.context.db.reading() as conn:
        row = (await conn.execute(text("select log, database, report from evidence order by id limit 1"))).one()
        location = (
            await conn.execute(text("select location from blobs where size = 18 and state = 'live'"))
        ).scalar_one()
    assert (row.log, row.database, bool(row.report)) == ("what it said", {"updated_at": UPDATED}, True)
    assert await place.context.store.read_all(location, limit=100) == b'{"full": "report"}'


async def test_a_second_job_for_fresh_evidence_does_nothing(place: Place) -> None:
    await place.scan_both()
    place.clock[0] += timedelta(minutes=59)
    await place.scan_both()
    assert len(place.vulnerabilities.seen) == 1

    place.clock[0] += timedelta(minutes=2)
    await place.scan_both()
    assert len(place.vulnerabilities.seen) == 2


async def test_a_new_reason_scans_again_at_once_and_only_once(place: Place) -> None:
    await place.scan_both()
    for _ in range(2):
        await scan_weights.run(place.context, digest=place.image.digest, input_version="asked 2026-01-02")

    assert len(place.weights.seen) == 2


async def test_what_did_not_succeed_is_tried_again_at_once(place: Place) -> None:
    place.weights.status = "inconclusive"
    await place.scan_both()
    await place.scan_both()

    assert len(place.weights.seen) == 2
    assert len(place.vulnerabilities.seen) == 1


async def test_a_manifest_that_is_gone_is_no_error(place: Place) -> None:
    await scan_weights.run(place.context, digest="sha256:" + "0" * 64)

    assert await place.evidence() == []


async def test_a_blob_that_is_being_deleted_is_not_there(place: Place) -> None:
    async with place.context.db.transaction() as conn:
        await conn.execute(text("update blobs set state = 'deleting' where digest = :d"), {"d": place.image.layer})
    refused: list[str] = []

    class Looking(FakeScanner):
        async def scan(self, subject: Subject) -> ScanResult:
            assert subject.path_of(place.image.config).exists()
            with pytest.raises(BlobUnknown):
                subject.path_of(place.image.layer)
            refused.append(subject.digest)
            return self.answer()

    looking = replace(place.context, weight_scanner=Looking("weights", place.clock))
    await scan_weights.run(looking, digest=place.image.digest)

    assert refused == [place.image.digest]


async def test_content_without_evidence_is_due(place: Place) -> None:
    await rescan_due.run(place.context)

    assert await place.waiting() == [("scan_vulnerabilities", UPDATED), ("scan_weights", "")]


async def test_fresh_evidence_is_not_due_and_old_evidence_is(place: Place) -> None:
    await place.scan_both()
    place.clock[0] += timedelta(days=6, hours=23)
    await rescan_due.run(place.context)
    assert await place.waiting() == []

    place.clock[0] += timedelta(hours=2)
    await rescan_due.run(place.context)
    assert [name for name, _ in await place.waiting()] == ["scan_vulnerabilities", "scan_weights"]


async def test_a_failed_scan_is_due_after_an_hour(place: Place) -> None:
    place.weights.status = "failed"
    await place.scan_both()
    place.clock[0] += timedelta(minutes=59)
    await rescan_due.run(place.context)
    assert await place.waiting() == []

    place.clock[0] += timedelta(minutes=2)
    await rescan_due.run(place.context)
    assert [name for name, _ in await place.waiting()] == ["scan_weights"]


async def test_a_newer_database_makes_vulnerability_scans_due_at_once(place: Place) -> None:
    await place.scan_both()
    place.vulnerabilities.updated_at = "2026-01-01T06:00:00Z"
    await rescan_due.run(place.context)
    assert await place.waiting() == [("scan_vulnerabilities", "2026-01-01T06:00:00Z")]

    await scan_vulnerabilities.run(place.context, digest=place.image.digest, input_version="2026-01-01T06:00:00Z")
    await rescan_due.run(place.context)
    assert await place.waiting() == []
    assert len(place.vulnerabilities.seen) == 2


@pytest.mark.parametrize("state", ["archived", "deleted"])
async def test_versions_out_of_use_are_not_due(place: Place, state: str) -> None:
    async with place.context.db.transaction() as conn:
        await conn.execute(text("update versions set state = :s"), {"s": state})

    await rescan_due.run(place.context)

    assert await place.waiting() == []
