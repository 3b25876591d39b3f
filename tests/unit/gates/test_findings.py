"""How is the summary of a report read? Strictly: whatever is odd gives None, which the gate never lets pass."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from berth.adapters.scanners import contract
from berth.gates.decide import Finding, Findings, Problem
from berth.gates.findings import read_instant, read_summary

COUNTS = {name: {"total": 0, "fixable": 0} for name in ("CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN")}
GOOD: dict[str, Any] = {
    "severities": {**COUNTS, "HIGH": {"total": 5, "fixable": 2}},
    "malicious": [{"path": "layer 1: a.pkl", "what": "os.system"}],
    "problems": [{"code": "os.end_of_life", "message": "old."}],
}


def test_a_vulnerability_report() -> None:
    assert read_summary("vulnerabilities", GOOD) == Findings(
        vulnerabilities=(Finding("HIGH", True, 2), Finding("HIGH", False, 3)),
        problems=(Problem("os.end_of_life", "old."),),
    )


def test_a_weight_report() -> None:
    assert read_summary("weights", GOOD) == Findings(
        malicious=("os.system in layer 1: a.pkl",), problems=(Problem("os.end_of_life", "old."),)
    )


def test_what_a_scanner_writes_is_understood() -> None:
    summary = contract.Summary(
        severities={"CRITICAL": contract.SeverityCount(1, 1)},
        malicious=(contract.Finding("a.pkl", "x"),),
        problems=(contract.Problem("layer.foreign", "y"),),
    ).to_json()
    read = read_summary("vulnerabilities", summary)
    assert read == Findings(vulnerabilities=(Finding("CRITICAL", True, 1),), problems=(Problem("layer.foreign", "y"),))
    assert read_summary("weights", summary) == Findings(
        malicious=("x in a.pkl",), problems=(Problem("layer.foreign", "y"),)
    )


@pytest.mark.parametrize(
    ("codes", "empty"),
    [(["packages.none"], True), ([], False), (["packages.none", "database.old"], False), (["os.no_packages"], False)],
)
def test_an_empty_image_is_one_about_which_nothing_else_is_said(codes: list[str], empty: bool) -> None:
    read = read_summary("vulnerabilities", {**GOOD, "problems": [{"code": code, "message": "x"} for code in codes]})
    assert read is not None
    assert read.no_packages is empty


ODD: list[tuple[str, str, Any]] = [
    ("vulnerabilities", "severities", None),
    ("vulnerabilities", "severities", []),
    ("vulnerabilities", "severities", {}),
    ("vulnerabilities", "severities", {**COUNTS, "WORSE": {"total": 1, "fixable": 1}}),
    ("vulnerabilities", "severities", {name: count for name, count in COUNTS.items() if name != "CRITICAL"}),
    ("vulnerabilities", "severities", {**COUNTS, "HIGH": 3}),
    ("vulnerabilities", "severities", {**COUNTS, "HIGH": {"total": 1}}),
    ("vulnerabilities", "severities", {**COUNTS, "HIGH": {"total": "1", "fixable": 0}}),
    ("vulnerabilities", "severities", {**COUNTS, "HIGH": {"total": True, "fixable": 0}}),
    ("vulnerabilities", "severities", {**COUNTS, "HIGH": {"total": -1, "fixable": -1}}),
    ("vulnerabilities", "severities", {**COUNTS, "HIGH": {"total": 1, "fixable": 2}}),
    ("vulnerabilities", "problems", None),
    ("vulnerabilities", "problems", "none"),
    ("weights", "problems", [{"code": "x"}]),
    ("weights", "problems", ["x"]),
    ("weights", "problems", [{"code": 1, "message": "x"}]),
    ("weights", "malicious", None),
    ("weights", "malicious", {}),
    ("weights", "malicious", [{"path": "x"}]),
    ("weights", "malicious", [{"path": "x", "what": None}]),
]


@pytest.mark.parametrize(("kind", "member", "value"), ODD)
def test_an_odd_member_is_not_read_as_nothing_found(kind: str, member: str, value: object) -> None:
    summary = copy.deepcopy(GOOD)
    assert read_summary(kind, summary) is not None
    summary[member] = value
    assert read_summary(kind, summary) is None
    del summary[member]
    assert read_summary(kind, summary) is None


@pytest.mark.parametrize("summary", [None, [], "x", 3])
def test_a_summary_that_is_no_object(summary: object) -> None:
    assert read_summary("weights", summary) is None


def test_instants_need_an_offset() -> None:
    noon = datetime(2026, 6, 15, 12, tzinfo=UTC)
    assert read_instant("2026-06-15T12:00:00Z") == noon
    assert read_instant("2026-06-15T14:00:00+02:00") == noon
    for odd in ("2026-06-15T12:00:00", "yesterday", "", None, 5):
        assert read_instant(odd) is None
