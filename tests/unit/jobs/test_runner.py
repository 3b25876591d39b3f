"""The job runner's door: jobs run, failures are tried again when waiting may help, a stop puts nothing at risk."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, cast

import psycopg
import pytest
import structlog
from procrastinate.jobs import Job
from sqlalchemy import text

from berth import telemetry
from berth.db import queue
from berth.db.embedded import EmbeddedPostgres
from berth.db.engine import Database
from berth.errors import InvalidInput, NotFound, RemoteError, Unavailable
from berth.jobs import JOBS, JobContext, runner


class Probe(ModuleType):
    """A job module made of a function."""

    NAME = "probe"
    QUEUE = "short"

    def __init__(self, run: Any, every: str | None = None) -> None:
        super().__init__("tests_probe_job")
        self.run = run
        if every is not None:
            self.EVERY = every


@pytest.fixture
def _logging_as_it_was() -> Iterator[None]:
    handlers, level = logging.root.handlers, logging.root.level
    yield
    logging.root.handlers, logging.root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def context(database: Database) -> JobContext:
    nothing = cast("Any", None)  # these jobs use the database only
    return JobContext(database, nothing, nothing, nothing, nothing)


@asynccontextmanager
async def working(
    url: str, context: JobContext, probe: Probe, *, grace_seconds: float = 10, concurrency: int = 2
) -> AsyncIterator[asyncio.Event]:
    """A worker that knows one job; the event stops it."""
    sys.modules[probe.__name__] = probe
    stop = asyncio.Event()
    worker = asyncio.create_task(
        runner.work(
            url,
            context,
            stop=stop,
            jobs={"probe": probe.__name__},
            grace_seconds=grace_seconds,
            concurrency=concurrency,
        )
    )
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(worker, timeout=30)
        del sys.modules[probe.__name__]


async def rows(database: Database, query: str) -> list[Any]:
    async with database.reading() as conn:
        return list((await conn.execute(text(query))).all())


async def until(database: Database, query: str, wanted: Any) -> None:
    """Returns when the query's first value is the wanted one."""
    async with asyncio.timeout(30):
        while (found := await rows(database, query)) and found[0][0] != wanted:
            await asyncio.sleep(0.02)


STATUS = "SELECT status::text FROM procrastinate_jobs"


async def test_a_job_runs_with_its_arguments(database: Database, database_url: str, context: JobContext) -> None:
    seen: list[dict[str, Any]] = []

    async def run(given: JobContext, **args: Any) -> None:
        assert given is context
        seen.append(args)

    async with working(database_url, context, Probe(run)):
        async with database.transaction() as conn:
            await queue.defer(conn, "probe", digest="sha256:0")
        await until(database, STATUS, "succeeded")
    assert seen == [{"digest": "sha256:0"}]


async def test_a_job_that_fails_while_another_waits_with_its_key_leaves_the_work_to_that(
    database: Database, database_url: str, context: JobContext
) -> None:
    tries: list[int] = []

    async def run(_context: JobContext) -> None:
        tries.append(len(tries))
        if len(tries) == 1:
            async with database.transaction() as conn:
                await queue.defer(conn, "probe", key="k")
            raise Unavailable("The scanner is not there.")

    # With one hand the worker cannot begin the second before the first has ended.
    async with working(database_url, context, Probe(run), concurrency=1):
        async with database.transaction() as conn:
            await queue.defer(conn, "probe", key="k")
        await until(database, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'", 1)
    assert await rows(database, f"{STATUS} ORDER BY id") == [("aborted",), ("succeeded",)]
    assert tries == [0, 1]


async def test_a_passing_error_is_tried_again_later(database: Database, database_url: str, context: JobContext) -> None:
    async def run(_context: JobContext) -> None:
        raise Unavailable("The scanner is not there.")

    async with working(database_url, context, Probe(run)):
        async with database.transaction() as conn:
            await queue.defer(conn, "probe")
        await until(database, "SELECT attempts FROM procrastinate_jobs", 1)
    found = await rows(
        database, "SELECT status::text, scheduled_at - now() BETWEEN '0 s' AND '5 s' FROM procrastinate_jobs"
    )
    assert [tuple(row) for row in found] == [("todo", True)]


async def test_an_error_that_waiting_does_not_cure_fails_at_once(
    database: Database, database_url: str, context: JobContext
) -> None:
    async def run(_context: JobContext) -> None:
        raise NotFound("There is no such manifest.")

    before = telemetry.metrics().jobs.labels("probe", "failed")._value.get()
    async with working(database_url, context, Probe(run)):
        async with database.transaction() as conn:
            await queue.defer(conn, "probe")
        await until(database, STATUS, "failed")
    assert telemetry.metrics().jobs.labels("probe", "failed")._value.get() == before + 1


@pytest.mark.usefixtures("_logging_as_it_was")
async def test_an_unexpected_error_neither_ends_the_worker_nor_is_it_hidden(
    database: Database, database_url: str, context: JobContext, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(_context: JobContext, *, crash: bool) -> None:
        if crash:
            raise ZeroDivisionError("a bug")

    telemetry.configure_logging(process="worker")
    async with working(database_url, context, Probe(run)):
        async with database.transaction() as conn:
            await queue.defer(conn, "probe", crash=True)
            await queue.defer(conn, "probe", crash=False)
        await until(database, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'", 1)
        await until(database, "SELECT max(attempts) FROM procrastinate_jobs WHERE status = 'todo'", 1)
    said = capsys.readouterr().err
    assert "job.crashed" in said
    assert "ZeroDivisionError: a bug" in said


async def test_a_stop_lets_the_running_job_finish(database: Database, database_url: str, context: JobContext) -> None:
    running, finish = asyncio.Event(), asyncio.Event()

    async def run(_context: JobContext) -> None:
        running.set()
        await finish.wait()

    async with working(database_url, context, Probe(run)) as stop:
        async with database.transaction() as conn:
            await queue.defer(conn, "probe")
        await asyncio.wait_for(running.wait(), timeout=30)
        stop.set()
        await asyncio.sleep(0)
        finish.set()
    assert [row[0] for row in await rows(database, STATUS)] == ["succeeded"]


async def test_a_job_that_outlasts_the_stop_is_put_back(
    database: Database, database_url: str, context: JobContext
) -> None:
    running = asyncio.Event()

    async def run(_context: JobContext) -> None:
        running.set()
        await asyncio.Event().wait()

    async with working(database_url, context, Probe(run), grace_seconds=0.05):
        async with database.transaction() as conn:
            await queue.defer(conn, "probe")
        await asyncio.wait_for(running.wait(), timeout=30)
    assert [row[0] for row in await rows(database, STATUS)] == ["todo"]


async def test_a_timed_job_runs_without_anybody_asking(
    database: Database, database_url: str, context: JobContext
) -> None:
    ran = asyncio.Event()

    async def run(_context: JobContext) -> None:
        ran.set()

    async with working(database_url, context, Probe(run, every="* * * * * *")):
        await asyncio.wait_for(ran.wait(), timeout=30)


async def test_a_worker_survives_the_loss_of_its_connections(
    database: Database, database_url: str, context: JobContext, postgres: EmbeddedPostgres
) -> None:
    async def run(_context: JobContext) -> None:
        return

    async with working(database_url, context, Probe(run)):
        for count in (1, 2):
            async with database.transaction() as conn:
                await queue.defer(conn, "probe")
            await until(database, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'", count)
            with psycopg.connect(postgres.superuser_url, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'berth'")


@pytest.fixture
def job() -> Job:
    return Job(id=1, queue="short", task_name="probe", lock=None, queueing_lock=None)


@pytest.mark.parametrize(
    ("error", "attempts", "again"),
    [
        (Unavailable("x"), 0, True),
        (RemoteError("x"), 4, True),
        (Unavailable("x"), 5, False),
        (ZeroDivisionError(), 0, True),
        (ZeroDivisionError(), 5, False),
        (InvalidInput("x"), 0, False),
        (asyncio.CancelledError(), 9, True),
    ],
)
def test_which_failures_are_tried_again(job: Job, error: BaseException, attempts: int, again: bool) -> None:
    decision = runner.BackOff().get_retry_decision(exception=error, job=job.evolve(attempts=attempts))
    assert (decision is not None) == again


def test_the_index_is_sorted_and_names_agree() -> None:
    assert list(JOBS) == sorted(JOBS)
    for name, target in JOBS.items():
        module = importlib.import_module(target)
        assert name == module.NAME
        assert module.QUEUE in queue.QUEUES
        assert asyncio.iscoroutinefunction(module.run)
