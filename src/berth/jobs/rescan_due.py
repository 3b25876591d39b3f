"""Which scans are to be repeated? Puts them on the queue: old ones, failed ones, and those of an older database."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Any, Final

import structlog

from berth.adapters.scanners.contract import Scanner
from berth.db import queue
from berth.gates.decide import NEEDS
from berth.jobs import queries
from berth.jobs.context import JobContext

NAME: Final = "rescan_due"
QUEUE: Final = "short"
EVERY: Final = "*/10 * * * *"

OK_FOR: Final = timedelta(days=7)
RETRY_AFTER: Final = timedelta(hours=1)
BATCH: Final = 200
log = structlog.get_logger(__name__)


async def run(context: JobContext, **_: Any) -> None:
    """One look. A job that waits already is not put on the queue twice; what exceeds the batch comes next time."""
    roles: dict[str, list[str]] = defaultdict(list)
    for role, kinds in NEEDS.items():
        for needed in kinds:
            roles[needed].append(role)
    scanners: dict[str, Scanner] = {
        "vulnerabilities": context.vulnerability_scanner,
        "weights": context.weight_scanner,
    }
    for kind, scanner in scanners.items():
        # Outside any transaction: this may download a database.
        updated_at = (await scanner.version()).get("database", {}).get("updated_at")
        now = context.now()
        async with context.db.transaction() as conn:
            found = await queries.due(
                conn,
                kind=kind,
                roles=roles[kind],
                ok_before=now - OK_FOR,
                other_before=now - RETRY_AFTER,
                database_updated_at=updated_at,
                limit=BATCH,
            )
            for digest in found:
                job = f"scan_{kind}"
                # The database's date makes it a reason of its own: a scan that is fresh but older is repeated.
                await queue.defer(
                    conn, job, queue="scan", key=f"{job}:{digest}", digest=digest, input_version=updated_at or ""
                )
        if found:
            log.info("rescans_due", kind=kind, count=len(found))
