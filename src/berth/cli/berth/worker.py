"""`berth worker`: takes jobs from the queue until it is told to stop. Start as many as needed."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

import berth
from berth.cli.berth._settings import service_settings
from berth.cli.berth._supervised import Supervisor, SupervisorFd, quick_imports, run_alone
from berth.cli.berth.serve import database_needed


def worker(
    queue: Annotated[
        list[str] | None, typer.Option(help="Take jobs of this queue only (scan, publish, short); repeatable.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(help="Jobs at once.  [BERTH_WORKER_CONCURRENCY, 2]")] = None,
    supervisor_fd: SupervisorFd = None,
) -> None:
    """Start a worker that scans, publishes and cleans up. Needs BERTH_DATABASE_URL; `berth up` starts one by itself.

    Example: berth worker --queue scan --concurrency 4
    """
    settings = service_settings(worker_concurrency=concurrency)
    supervisor = Supervisor(supervisor_fd)
    database_url = database_needed(settings)

    with quick_imports():
        import uvloop

        from berth import telemetry, wiring

        wiring.preload("worker")
        from berth.jobs import runner

    telemetry.configure_logging(process="worker", log_format=settings.log_format, level=settings.log_level)
    if settings.sentry_dsn is not None:
        telemetry.start_sentry(settings.sentry_dsn.get_secret_value(), process="worker", release=berth.__version__)

    async def main() -> None:
        context = wiring.job_context(settings)
        stop = asyncio.Event()
        for sent in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sent, stop.set)
        supervisor.say_ready()
        try:
            await runner.work(database_url, context, stop=stop, queues=queue, concurrency=settings.worker_concurrency)
        finally:
            await context.cache.close()

    supervisor.wait_for_go()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main())


if __name__ == "__main__":
    run_alone("worker")
