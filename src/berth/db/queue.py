"""How does work get onto the queue, and how is the queue kept healthy? procrastinate on PostgreSQL (design §5).

This is the writing side and needs no procrastinate; jobs/runner.py is the reading one.
`defer` joins the caller's transaction: the job exists when the change that asked for it does, and not otherwise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# The channels of work: a worker takes from all unless told otherwise.
QUEUES: Final = ("publish", "scan", "short")

# What procrastinate lets through unchanged when the database is away.
LOST: Final = (psycopg.OperationalError,)

# What procrastinate's own function does (procrastinate_defer_jobs_v1; its triggers tell the workers), except that a
# taken key is an answer here and not an error, which would end the caller's transaction.
_INSERT: Final = text(
    """
    INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, lock, args, scheduled_at)
    VALUES (:queue, :name, :key, :lock, CAST(:args AS jsonb), :at)
    ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
    RETURNING id
    """
)


async def defer(
    conn: AsyncConnection,
    name: str,
    *,
    queue: str = "short",
    key: str | None = None,
    delay_seconds: int = 0,
    forward: bool = False,
    alone: bool = False,
    **args: Any,
) -> None:
    """Puts the job `name` on `queue`, within the transaction of `conn`.

    Args:
        conn: a connection of `Database.transaction()`.
        key: at most one job with this key waits at a time; when one waits already, that one will do, and it will not
            start before this transaction has ended, so that it sees what this transaction wrote.
        delay_seconds: not before so many seconds from now.
        forward: a job with this key that waits for its next try does so no more. For what people ask for: others who
            defer that job meanwhile wait until this transaction ends.
        alone: it does not run beside another one with this key that was deferred so, but after it.
        args: what the job is called with; JSON types, ids only, no secrets.
    """
    job = {
        "queue": queue,
        "name": name,
        "key": key,
        "lock": key if alone else None,
        "args": json.dumps(args),
        "at": datetime.now(UTC) + timedelta(seconds=delay_seconds) if delay_seconds else None,
    }
    while True:
        if (await conn.execute(_INSERT, job)).first() is not None:
            return
        if await _hold_waiting(conn, key, forward=forward):
            return
        # It started between the two statements and may have looked too early: another one is needed.


async def follow(
    conn: AsyncConnection, repository_id: int, root: str, *, admitted: bool, forward: bool = False
) -> None:
    """Have other registries follow what the gate says of a version: it is published there, or withdrawn.

    Args:
        forward: as of `defer`.
    """
    job = "publish_version" if admitted else "withdraw_version"
    # Alone: new evidence comes while the version is still copied, and two copies at once would send everything twice
    # and each the other's chunks into one upload.
    key = f"{job}:{repository_id}:{root}"
    await defer(
        conn, job, queue="publish", key=key, alone=True, forward=forward, repository_id=repository_id, root=root
    )


async def _hold_waiting(conn: AsyncConnection, key: str | None, *, forward: bool) -> bool:
    """Keeps the waiting job with that key from being started until this transaction ends; False when none waits."""
    found = await conn.execute(
        text(
            "SELECT id, queue_name FROM procrastinate_jobs WHERE queueing_lock = :key AND status = 'todo' FOR KEY SHARE"
        ),
        {"key": key},
    )
    job = found.one_or_none()
    if job is None:
        return False
    if forward:
        await conn.execute(text("UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE id = :id"), {"id": job.id})
    # Workers pass a held job over; this wakes them when we let go of it (NOTIFY is sent at the commit). As
    # procrastinate's own trigger does it.
    await conn.execute(
        text("SELECT pg_notify('procrastinate_any_queue_v1', :message), pg_notify(:channel, :message)"),
        {
            "message": json.dumps({"type": "job_inserted", "job_id": job.id}),
            "channel": f"procrastinate_queue_v1#{job.queue_name}",
        },
    )
    return True


@dataclass(frozen=True)
class QueueState:
    """How much work of one queue is in one state ("todo", "doing", "failed"), and since when the oldest waits."""

    queue: str
    status: str
    jobs: int
    oldest_seconds: float


async def state(conn: AsyncConnection) -> list[QueueState]:
    """What waits, runs and has failed, per queue; for metrics."""
    rows = await conn.execute(
        text(
            """
            SELECT job.queue_name, job.status::text, count(*),
                   coalesce(extract(epoch FROM clock_timestamp() - min(coalesce(job.scheduled_at, event.at))), 0)
              FROM procrastinate_jobs job
              LEFT JOIN LATERAL (
                   SELECT min(at) AS at FROM procrastinate_events WHERE job_id = job.id
              ) event ON true
             WHERE job.status IN ('todo', 'doing', 'failed')
             GROUP BY 1, 2 ORDER BY 1, 2
            """
        )
    )
    return [QueueState(str(row[0]), str(row[1]), int(row[2]), max(0.0, float(row[3]))) for row in rows]


@dataclass(frozen=True)
class Stalled:
    """Outcome of looking for jobs whose worker died: ids put back, and ids given up."""

    retried: tuple[int, ...]
    given_up: tuple[int, ...]


async def retry_stalled(conn: AsyncConnection, *, silent_seconds: int, max_attempts: int) -> Stalled:
    """Puts jobs back whose worker has gone or has been silent for `silent_seconds`; gives up after `max_attempts`.

    A job that took its worker down (memory, crash of a parser) each time must not do so for ever.
    """
    rows = (
        await conn.execute(
            text(
                """
                SELECT job.id, job.attempts FROM procrastinate_jobs job
                  LEFT JOIN procrastinate_workers worker ON worker.id = job.worker_id
                 WHERE job.status = 'doing'
                   AND (worker.id IS NULL OR worker.last_heartbeat < now() - make_interval(secs => :silent))
                 ORDER BY job.id FOR UPDATE OF job SKIP LOCKED
                """
            ),
            {"silent": silent_seconds},
        )
    ).all()
    retried, given_up = [], []
    for job_id, attempts in rows:
        if attempts + 1 >= max_attempts:
            await conn.execute(text("SELECT procrastinate_finish_job_v1(:id, 'failed', false)"), {"id": job_id})
            given_up.append(job_id)
            continue
        waiting = await conn.execute(
            text(
                """
                SELECT 1 FROM procrastinate_jobs job JOIN procrastinate_jobs twin
                    ON twin.queueing_lock = job.queueing_lock AND twin.status = 'todo'
                 WHERE job.id = :id
                """
            ),
            {"id": job_id},
        )
        if waiting.first() is not None:
            # A twin with the same key waits already and will do the work; two may not wait at once.
            await conn.execute(text("SELECT procrastinate_finish_job_v1(:id, 'aborted', false)"), {"id": job_id})
        else:
            await conn.execute(text("SELECT procrastinate_retry_job_v2(:id, now(), NULL, NULL, NULL)"), {"id": job_id})
        retried.append(job_id)
    return Stalled(tuple(retried), tuple(given_up))


async def delete_finished(conn: AsyncConnection, *, older_than_hours: int, failed_older_than_hours: int) -> int:
    """Removes jobs that ended long ago, failed ones later than the others; returns how many."""
    removed = await conn.execute(
        text(
            """
            DELETE FROM procrastinate_jobs job
             WHERE (job.status IN ('succeeded', 'cancelled', 'aborted') AND NOT EXISTS (
                     SELECT 1 FROM procrastinate_events e
                      WHERE e.job_id = job.id AND e.at >= now() - make_interval(hours => :hours)))
                OR (job.status = 'failed' AND NOT EXISTS (
                     SELECT 1 FROM procrastinate_events e
                      WHERE e.job_id = job.id AND e.at >= now() - make_interval(hours => :failed_hours)))
            """
        ),
        {"hours": older_than_hours, "failed_hours": failed_older_than_hours},
    )
    return removed.rowcount
