"""Log lines, metrics and error reports say what happened and no secrets."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
import structlog
from prometheus_client import generate_latest

from berth import telemetry


@pytest.fixture(autouse=True)
def _as_it_was() -> object:
    handlers, level = logging.root.handlers, logging.root.level
    yield
    logging.root.handlers, logging.root.level = handlers, level
    structlog.reset_defaults()


def test_a_text_line_names_time_level_process_event_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.PlainLog("up").warning("child.ended", child="server", code=-9, note="two words")
    said = capsys.readouterr().err.split(maxsplit=1)
    assert said[0].endswith("Z")
    assert said[1] == 'warning up       child.ended  child=server code=-9 note="two words"\n'


def test_json_lines_are_json_for_our_loggers_and_those_of_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging(process="server", log_format="json")
    structlog.get_logger("a").info("verdict.decided", digest="sha256:0", admitted=False)
    logging.getLogger("some.library").error("It broke: %s", "badly")
    ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["level"], ours["process"], ours["event"], ours["admitted"]) == (
        "info",
        "server",
        "verdict.decided",
        False,
    )
    assert (theirs["level"], theirs["event"], theirs["logger"]) == ("error", "It broke: badly", "some.library")


def test_tracebacks_are_part_of_the_entry(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging(process="worker", log_format="json")
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError:
        structlog.get_logger("a").exception("job.crashed")
        logging.getLogger("b").exception("crashed")
    for line in capsys.readouterr().err.splitlines():
        assert "ZeroDivisionError: a bug" in json.loads(line)["exception"]


@pytest.mark.parametrize(
    "name",
    ["password", "trivy_db_password", "token", "admin_token", "Authorization", "cookie", "sentry_dsn", "database_url"],
)
def test_values_of_secret_names_are_hidden(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging(process="server")
    structlog.get_logger("a").info("x", **{name: "s3cret"}, nested={name: "s3cret"})
    assert "s3cret" not in capsys.readouterr().err


def test_lower_levels_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging(process="server", level="warning")
    structlog.get_logger("a").info("quiet")
    logging.getLogger("b").info("quiet")
    telemetry.PlainLog("up", level="warning").info("quiet")
    assert capsys.readouterr().err == ""


def test_loggers_outlive_the_stream_that_stood_there_when_they_first_spoke(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = structlog.get_logger("a"), logging.getLogger("b")
    with io.StringIO() as gone, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", gone)
        telemetry.configure_logging(process="server")
        ours.info("first")
        theirs.warning("first")
    ours.info("second")
    theirs.warning("second")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["second", "logger=b"]


def test_metrics_carry_our_prefix_and_a_help_text() -> None:
    telemetry.metrics().jobs.labels("collect_garbage", "succeeded").inc()
    page = generate_latest(telemetry.metrics().registry).decode()
    assert 'berth_jobs_total{job="collect_garbage",outcome="succeeded"}' in page
    names = [line.split()[2] for line in page.splitlines() if line.startswith("# HELP")]
    assert all(name.startswith(("berth_", "process_", "python_")) for name in names)
