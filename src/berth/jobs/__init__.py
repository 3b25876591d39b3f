"""What happens without a request? One verb per file; this index maps each job's name to its file.

A file has `NAME`, `QUEUE`, optionally `EVERY` (cron: minute hour day month weekday, and optionally seconds) and
`async def run(context: JobContext, **args)`. Jobs are idempotent: the queue may run one twice. The worker loads all
files at its start; whoever only puts jobs on the queue (db/queue.py) needs none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from berth.jobs.context import JobContext

__all__ = ["JOBS", "JobContext"]

JOBS: Final[Mapping[str, str]] = {
    "collect_garbage": "berth.jobs.collect_garbage",
    "delete_old_jobs": "berth.jobs.delete_old_jobs",
    "evict_cache": "berth.jobs.evict_cache",
    "forget_registry_events": "berth.jobs.forget_registry_events",
    "publish_version": "berth.jobs.publish_version",
    "record_needs": "berth.jobs.record_needs",
    "remove_stale_uploads": "berth.jobs.remove_stale_uploads",
    "rescan_due": "berth.jobs.rescan_due",
    "retry_stalled_jobs": "berth.jobs.retry_stalled_jobs",
    "run_sync": "berth.jobs.run_sync",
    "scan_vulnerabilities": "berth.jobs.scan_vulnerabilities",
    "scan_weights": "berth.jobs.scan_weights",
    "schedule_sync": "berth.jobs.schedule_sync",
    "take_registry_events": "berth.jobs.take_registry_events",
    "withdraw_version": "berth.jobs.withdraw_version",
}
