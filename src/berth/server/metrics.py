"""GET /metrics: the service's numbers for Prometheus. Needs a token of a global auditor or admin.

The HTTP door counts every request here. Labels never hold what a caller chooses freely: their number is unbounded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fastapi import Request, Response

from berth import telemetry
from berth.db import queue
from berth.server.api.calls import acting
from berth.server.api.operations import operation, resource

router = resource("health")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@contextmanager
def in_flight(part: str) -> Iterator[None]:
    """Count a request of `part` ("gateway" or "rest") as running, and its duration when the block ends."""
    numbers = telemetry.metrics()
    started = time.perf_counter()
    numbers.requests_running.inc()
    try:
        yield
    finally:
        numbers.requests_running.dec()
        numbers.request_seconds.labels(part).observe(time.perf_counter() - started)


def count_request(part: str, method: str, status: int) -> None:
    """Count an answered request; `status` 0 means that the caller went away before there was an answer."""
    known = method if method in _METHODS else "other"
    telemetry.metrics().requests.labels(known, part, str(status)).inc()


@router.get(
    "/metrics",
    response_class=Response,
    **operation("service.observe", "metrics", "The service's numbers, in Prometheus' text format"),
)
async def metrics(request: Request) -> Response:
    # Imported here: a process that nobody watches should not pay for it at its start.
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    numbers = telemetry.metrics()
    async with acting(request) as call:
        states = await queue.state(call.conn)
    # A queue that has become empty must not keep its last number.
    numbers.queue_jobs.clear()
    numbers.queue_oldest_seconds.clear()
    for state in states:
        numbers.queue_jobs.labels(state.queue, state.status).set(state.jobs)
        numbers.queue_oldest_seconds.labels(state.queue, state.status).set(state.oldest_seconds)
    return Response(generate_latest(numbers.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
