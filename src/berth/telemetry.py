"""What does the service say about itself? Log lines, every metric's name, and error reports to Sentry.

Nothing heavy is imported before it is used: `berth up` writes log lines without structlog, and the client side never
sees prometheus-client.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
# Values under such names never reach a log line or Sentry, wherever they come from.
_SECRET = re.compile(
    r"(^|_)(password|passwd|secret|token|authorization|cookie|dsn|private_key|database_url)$", re.IGNORECASE
)
_HIDDEN: Final = "***"
# Fields that stand at fixed places of a text line.
_FIXED: Final = ("timestamp", "level", "process", "event", "exception")

# -- log lines --------------------------------------------------------------------------------------------------------


def line(fields: Mapping[str, Any], *, log_format: str) -> str:
    """One log entry as text (`time level process event key=value …`) or as one JSON document."""
    if log_format == "json":
        return json.dumps(fields, default=str, ensure_ascii=False)
    rest = " ".join(f"{key}={_word(value)}" for key, value in fields.items() if key not in _FIXED)
    head = f"{fields['timestamp']} {fields['level']:<7} {fields['process']:<8} {fields['event']}"
    tail = f"\n{fields['exception']}" if fields.get("exception") else ""
    return f"{head}  {rest}{tail}" if rest else head + tail


def without_secrets(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields, values of secret names replaced, also in nested mappings."""
    return {
        key: _HIDDEN
        if _SECRET.search(str(key)) and value is not None
        else without_secrets(value)
        if isinstance(value, Mapping)
        else value
        for key, value in fields.items()
    }


def timestamp() -> str:
    """Now, as log lines write it: UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class PlainLog:
    """Writes log lines without any logging library; for the supervisor, which should start at once."""

    process: str
    log_format: str = "text"
    level: str = "info"

    def write(self, level: str, event: str, **fields: Any) -> None:
        if LEVELS[level] >= LEVELS[self.level]:
            entry = {"timestamp": timestamp(), "level": level, "process": self.process, "event": event}
            print(line(without_secrets({**entry, **fields}), log_format=self.log_format), file=sys.stderr, flush=True)  # noqa: T201

    def info(self, event: str, **fields: Any) -> None:
        self.write("info", event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        self.write("warning", event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        self.write("error", event, **fields)


def configure_logging(*, process: str, log_format: str = "text", level: str = "info") -> None:
    """Sends structlog and the standard library's loggers to stderr, in one format.

    Args:
        process: which of Berth's processes speaks ("server", "worker", "migrate").
        log_format: "text" or "json".
        level: lowest level that is written.
    """
    import structlog

    def render(_logger: Any, method: str, fields: MutableMapping[str, Any]) -> str:
        error = fields.pop("exc_info", None)
        if error:
            fields["exception"] = _traceback(error)
        entry = {"timestamp": timestamp(), "level": fields.pop("level", method), "process": process}
        return line(without_secrets({**entry, "event": fields.pop("event", ""), **fields}), log_format=log_format)

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(_StandardLibrary(process, log_format))
    handler.addFilter(_is_no_repetition)
    logging.root.handlers = [handler]
    logging.root.setLevel(LEVELS[level])
    for chatty in ("alembic", "asyncio", "httpcore", "httpx", "procrastinate", "sqlalchemy", "uvicorn"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, LEVELS[level]))


class _Stderr:
    """The standard error of the moment: loggers outlive the stream that stood there when they were made."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _StandardLibrary(logging.Formatter):
    def __init__(self, process: str, log_format: str) -> None:
        super().__init__()
        self._process = process
        self._format = log_format

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "timestamp": timestamp(),
            "level": record.levelname.lower(),
            "process": self._process,
            "event": record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info:
            fields["exception"] = _traceback(record.exc_info)
        return line(fields, log_format=self._format)


def _is_no_repetition(record: logging.LogRecord) -> bool:
    """The job runner has logged a failed job already, with more about it than procrastinate knows."""
    return not str(getattr(record, "action", "")).startswith(("job_error", "job_aborted"))


def _traceback(error: Any) -> str:
    if error is True:
        error = sys.exc_info()
    if isinstance(error, BaseException):
        error = (type(error), error, error.__traceback__)
    return "".join(traceback.format_exception(*error)).rstrip()


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if not text or re.search(r"[\s\"=]", text) else text


# -- metrics ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metrics:
    """Every metric of the service. Labels never hold names of models, projects or people: their number is unbounded;
    those of registries are what admins set up."""

    registry: CollectorRegistry
    build: Gauge  # berth_build_info{version}
    requests: Counter  # berth_http_requests_total{method,route,status}
    request_seconds: Histogram  # berth_http_request_seconds{route}
    requests_running: Gauge  # berth_http_requests_running
    transfer_bytes: Counter  # berth_transfer_bytes_total{direction}: in | out
    blob_reads: Counter  # berth_blob_reads_total{source}: depot | registry | redirect
    fetches: Counter  # berth_fetches_total{registry,outcome}: ok | failed | missing | lied
    fetch_bytes: Counter  # berth_fetch_bytes_total{registry}
    evicted_bytes: Counter  # berth_evicted_bytes_total
    pulls_denied: Counter  # berth_pulls_denied_total{reason}
    verdicts: Counter  # berth_verdicts_total{admitted}: true | false
    scans: Counter  # berth_scans_total{kind,status}
    scan_seconds: Histogram  # berth_scan_seconds{kind}
    jobs: Counter  # berth_jobs_total{job,outcome}: succeeded | failed | cancelled
    job_seconds: Histogram  # berth_job_seconds{job}
    queue_jobs: Gauge  # berth_queue_jobs{queue,status}
    registry_events: Counter  # berth_registry_events_total{outcome}: new | repeated | foreign | refused | unreadable
    queue_oldest_seconds: Gauge  # berth_queue_oldest_seconds{queue,status}


@cache
def metrics() -> Metrics:
    """The metrics of this process, in a registry of their own (with the process's own memory and CPU time)."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

    r = CollectorRegistry()
    ProcessCollector(registry=r)
    PlatformCollector(registry=r)
    seconds = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)
    return Metrics(
        registry=r,
        build=Gauge("berth_build_info", "Always 1; the label is the version.", ["version"], registry=r),
        requests=Counter("berth_http_requests", "HTTP requests.", ["method", "route", "status"], registry=r),
        request_seconds=Histogram(
            "berth_http_request_seconds", "Time to the end of the answer.", ["route"], buckets=seconds, registry=r
        ),
        requests_running=Gauge("berth_http_requests_running", "HTTP requests being answered.", registry=r),
        transfer_bytes=Counter("berth_transfer_bytes", "Bytes of blobs and manifests.", ["direction"], registry=r),
        blob_reads=Counter("berth_blob_reads", "Blobs that readers got, by where from.", ["source"], registry=r),
        fetches=Counter("berth_fetches", "Registries asked for a blob.", ["registry", "outcome"], registry=r),
        fetch_bytes=Counter("berth_fetch_bytes", "Bytes of blobs from registries.", ["registry"], registry=r),
        evicted_bytes=Counter("berth_evicted_bytes", "Bytes of blobs that left the depot.", registry=r),
        pulls_denied=Counter("berth_pulls_denied", "Pulls that the gate refused.", ["reason"], registry=r),
        verdicts=Counter("berth_verdicts", "Verdicts decided.", ["admitted"], registry=r),
        scans=Counter("berth_scans", "Scans that ended.", ["kind", "status"], registry=r),
        scan_seconds=Histogram("berth_scan_seconds", "Duration of scans.", ["kind"], buckets=seconds, registry=r),
        jobs=Counter("berth_jobs", "Runs of jobs that ended.", ["job", "outcome"], registry=r),
        job_seconds=Histogram("berth_job_seconds", "Duration of runs of jobs.", ["job"], buckets=seconds, registry=r),
        registry_events=Counter(
            "berth_registry_events", "Events that other registries delivered.", ["outcome"], registry=r
        ),
        queue_jobs=Gauge("berth_queue_jobs", "Jobs on the queue.", ["queue", "status"], registry=r),
        queue_oldest_seconds=Gauge(
            "berth_queue_oldest_seconds", "Age of the oldest of them.", ["queue", "status"], registry=r
        ),
    )


# -- error reports ----------------------------------------------------------------------------------------------------


def start_sentry(dsn: str, *, process: str, release: str) -> None:
    """Reports errors of this process to Sentry. Request bodies, users and local variables are never sent."""
    import sentry_sdk

    def clean(event: Any, _hint: Any) -> Any:
        for part in ("extra", "request", "contexts"):
            if isinstance(event.get(part), Mapping):
                event[part] = without_secrets(event[part])
        return event

    sentry_sdk.init(
        dsn=dsn,
        release=f"berth@{release}",
        send_default_pii=False,
        max_request_body_size="never",
        include_local_variables=False,
        before_send=clean,
    )
    sentry_sdk.set_tag("process", process)


def report(error: BaseException) -> None:
    """Sends an unexpected error to Sentry when that is set up."""
    if "sentry_sdk" in sys.modules:
        import sentry_sdk

        sentry_sdk.capture_exception(error)
