"""How does a scan job go? Read where the content is, scan with no transaction open, then record in one transaction."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from berth.adapters.scanners.contract import Kind, Scanner, Subject
from berth.errors import BlobUnknown, SetupError
from berth.gates import evidence
from berth.jobs import queries
from berth.jobs.context import JobContext

# A second job for the same content (a repeated push, a job that the queue ran twice) finds this and ends.
FRESH: Final = timedelta(hours=1)
# How much longer than a scan may take its content stays in the depot.
STAY: Final = timedelta(minutes=5)
log = structlog.get_logger(__name__)


async def scan_leaf(context: JobContext, scanner: Scanner, *, kind: Kind, digest: str, input_version: str = "") -> None:
    """Scan one leaf manifest unless a fresh `ok` scan is there; a manifest that is gone needs none.

    Args:
        input_version: names why this scan was asked for, e.g. the vulnerability database's date or "asked 2026-…". A
            value other than the one of the newest scan has the content scanned again even if that one is fresh.

    Raises:
        SetupError: the depot's store keeps no local files.
        Unavailable: its bytes are at a registry that does not give them now.
    """
    async with context.db.reading() as conn:
        latest = await queries.latest_scan(conn, digest, kind)
        if latest is not None and _is_fresh(context, latest, input_version):
            log.info("scan_skipped", digest=digest, kind=kind, reason="a fresh scan is there")
            return
        found = await queries.manifest(conn, digest)
        if found is None:
            log.info("scan_skipped", digest=digest, kind=kind, reason="the manifest is gone")
            return
        media_type, body = found
    # Content that was imported, or that has left the depot, comes in first, and stays while it is looked at.
    places = await context.cache.hold(_blobs_named(body), for_=_scan_time(context))
    subject = Subject(digest, body, media_type, _finder(context, places))
    result = await scanner.scan(subject)
    if input_version:
        result = replace(result, database={**result.database, "input_version": input_version})
    log.info(
        "scanned",
        digest=digest,
        kind=kind,
        status=result.status,
        malicious=len(result.summary.malicious),
        problems=[problem.code for problem in result.summary.problems],
        seconds=round((result.finished_at - result.started_at).total_seconds(), 3),
    )
    report = await context.store.put_bytes(result.report)
    async with context.db.transaction() as conn:
        await evidence.record_scan(conn, digest=digest, result=result, report=report, now=context.now())


def _scan_time(context: JobContext) -> timedelta:
    return timedelta(seconds=context.settings.scan_timeout_seconds) + STAY


def _is_fresh(context: JobContext, latest: queries.Latest, input_version: str) -> bool:
    return (
        latest.status == "ok"
        and context.now() - latest.finished_at < FRESH
        and input_version in ("", latest.input_version)
    )


def _blobs_named(body: bytes) -> list[str]:
    """Digests of config and layers; whatever is wrong with the manifest is the scanner's to report."""
    try:
        document = json.loads(body)
        return [str(d["digest"]) for d in (document["config"], *document["layers"])]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _finder(context: JobContext, places: dict[str, str]) -> Callable[[str], Path]:
    path_of = getattr(context.store, "path_of", None)
    if path_of is None:
        raise SetupError(
            "Scanners read local files, which this depot does not keep.", hint="Use a depot of kind `files`."
        )

    def find(digest: str) -> Path:
        if digest not in places:
            raise BlobUnknown(f"Blob {digest} is not in the depot.")
        path: Path = path_of(places[digest])
        return path

    return find
