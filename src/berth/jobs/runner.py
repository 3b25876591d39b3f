"""How does a job run? The job runner's door: loads the jobs, runs them, logs, counts, and has failed ones tried again.

procrastinate fetches and finishes jobs (design §5). A worker that loses its database waits for it; a worker that is
killed leaves its jobs to retry_stalled_jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from typing import Any, Final

import structlog
from procrastinate import App, BaseRetryStrategy, PsycopgConnector, RetryDecision, exceptions
from procrastinate.job_context import JobContext as QueueContext
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager

from berth import telemetry
from berth.db import queue
from berth.errors import BerthError, IntegrityError, RemoteError, StorageFull, TooManyRequests, Unavailable
from berth.jobs import JOBS, JobContext

MAX_RETRIES: Final = 5
FIRST_WAIT_SECONDS: Final = 5
LONGEST_WAIT_SECONDS: Final = 300
# After SIGTERM: how long running jobs may finish before they are put back on the queue.
GRACE_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 5.0
SILENT_WORKER_SECONDS: Final = 30.0
# A new job wakes the worker at once; this finds those whose time has come.
POLL_SECONDS: Final = 2.0

# While the database is away: the longest time between two looks at it.
LONGEST_ABSENCE_SECONDS: Final = 5.0

# Errors that waiting may cure. Other members of the family say the same thing again at every try.
PASSING: Final = (IntegrityError, RemoteError, StorageFull, TooManyRequests, Unavailable)

log = structlog.get_logger(__name__)


class BackOff(BaseRetryStrategy):
    """Again after 5, 10, 20, 40, 80 seconds; at once when only the worker stopped; not when waiting cures nothing."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, asyncio.CancelledError | exceptions.JobAborted):
            return RetryDecision(retry_in={"seconds": 0})
        if isinstance(exception, BerthError) and not isinstance(exception, PASSING):
            return None
        if job.attempts >= MAX_RETRIES:
            return None
        return RetryDecision(retry_in={"seconds": min(FIRST_WAIT_SECONDS * 2**job.attempts, LONGEST_WAIT_SECONDS)})


class GivingWay(JobManager):
    """A job that is to be tried again ends instead where one with its key waits already: that one will do.

    PostgreSQL refuses two of them, and procrastinate would leave the job to look as if it ran for ever.
    """

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        try:
            await super().retry_job(job, retry_at=retry_at, priority=priority, queue=queue, lock=lock)
        except exceptions.UniqueViolation:
            await self.finish_job(job, status=Status.ABORTED, delete_job=False)
            log.info("job.gives_way", job=job.task_name, key=job.queueing_lock)


def build_app(database_url: str, context: JobContext, *, jobs: Mapping[str, str] = JOBS, connections: int = 5) -> App:
    """A procrastinate app that knows every job of the index `jobs` (name → module) and its timetable."""
    app = App(
        connector=PsycopgConnector(
            conninfo=database_url,
            min_size=1,
            max_size=connections,
            # Given up soon, since `work` tries again with short pauses.
            timeout=5,
            reconnect_timeout=2,
            kwargs={"application_name": "berth jobs"},
        )
    )
    app.job_manager = GivingWay(app.connector)
    for name, target in jobs.items():
        module = import_module(target)
        task = app.task(name=name, queue=module.QUEUE, retry=BackOff(), pass_context=True)(_door(name, module, context))
        every = getattr(module, "EVERY", None)
        if every is not None:
            # The key: when the worker was busy or away, one run is enough to catch up.
            app.periodic(cron=every, periodic_id=name, queueing_lock=name)(task)
    return app


def _door(name: str, module: Any, context: JobContext) -> Callable[..., Any]:
    async def execute(queued: QueueContext, **args: Any) -> None:
        args.pop("timestamp", None)  # procrastinate tells timed jobs when they were due
        counted = telemetry.metrics()
        started = time.monotonic()
        outcome = "failed"
        with structlog.contextvars.bound_contextvars(job=name, job_id=queued.job.id, attempt=queued.job.attempts + 1):
            try:
                await module.run(context, **args)
                outcome = "succeeded"
                log.debug("job.succeeded", seconds=round(time.monotonic() - started, 3))
            except asyncio.CancelledError:
                outcome = "cancelled"
                log.warning("job.cancelled", seconds=round(time.monotonic() - started, 3))
                raise
            except BerthError as error:
                log.warning("job.failed", code=error.code, message=error.message, detail=error.detail)
                raise
            except Exception as error:  # the job runner's door; the queue needs the error to decide about another try
                log.exception("job.crashed", error=type(error).__name__)
                telemetry.report(error)
                raise
            finally:
                counted.jobs.labels(name, outcome).inc()
                counted.job_seconds.labels(name).observe(time.monotonic() - started)

    return execute


async def work(
    database_url: str,
    context: JobContext,
    *,
    stop: asyncio.Event,
    jobs: Mapping[str, str] = JOBS,
    queues: Sequence[str] | None = None,
    concurrency: int = 2,
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """Runs jobs until `stop` is set, then lets running ones finish. Survives a database that leaves and comes back.

    Args:
        database_url: postgresql:// URL of the service's role.
        queues: take jobs from these only; None = from all.
        concurrency: how many jobs run at once.
        grace_seconds: what still runs so long after `stop` is cancelled and put back on the queue.
    """
    failures = 0
    while not stop.is_set():
        app = build_app(database_url, context, jobs=jobs, connections=concurrency + 3)
        began = time.monotonic()
        try:
            async with context.db.reading():
                pass  # says at once when the database is away; the queue's pool would try for half a minute
            await _work_until(app, stop, queues=queues, concurrency=concurrency, grace_seconds=grace_seconds)
        except (Unavailable, exceptions.ConnectorException, *queue.LOST) as error:
            log.warning("worker.database_away", message=_first_line(error.__cause__ or error))
        if stop.is_set():
            return
        failures = 0 if time.monotonic() - began > 60 else failures + 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), timeout=min(0.25 * 2**failures, LONGEST_ABSENCE_SECONDS))


async def _work_until(
    app: App, stop: asyncio.Event, *, queues: Sequence[str] | None, concurrency: int, grace_seconds: float
) -> None:
    async with app.open_async():
        options: dict[str, Any] = {"queues": list(queues)} if queues else {}
        worker = asyncio.create_task(
            app.run_worker_async(
                **options,
                name="berth",
                concurrency=concurrency,
                fetch_job_polling_interval=POLL_SECONDS,
                shutdown_graceful_timeout=grace_seconds,
                update_heartbeat_interval=HEARTBEAT_SECONDS,
                stalled_worker_timeout=SILENT_WORKER_SECONDS,
                install_signal_handlers=False,
                delete_jobs="never",
            )
        )
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({worker, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            # Cancelling tells the worker to stop fetching and to wait for its jobs.
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
