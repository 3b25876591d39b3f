"""What does the summary of a report say? Stored JSON in, `Findings` out; None when anything about it is odd.

`adapters/scanners/contract.py` writes these summaries. They are read strictly here: a member that is absent must never
read as "nothing found".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from berth.gates.decide import Finding, Findings, Problem
from berth.gates.policies import SEVERITIES

# The code with which a vulnerability scanner says that there was nothing to look at.
NO_PACKAGES: Final = "packages.none"


def read_summary(kind: str, summary: object) -> Findings | None:
    """Read `evidence.summary` of a report of that kind."""
    if not isinstance(summary, Mapping):
        return None
    problems = _problems(summary.get("problems"))
    vulnerabilities = _vulnerabilities(summary.get("severities")) if kind == "vulnerabilities" else ()
    malicious = _malicious(summary.get("malicious")) if kind == "weights" else ()
    if problems is None or vulnerabilities is None or malicious is None:
        return None
    return Findings(
        vulnerabilities=vulnerabilities,
        malicious=malicious,
        problems=problems,
        no_packages=[problem.code for problem in problems] == [NO_PACKAGES],
    )


def read_instant(value: object) -> datetime | None:
    """Read an RFC 3339 time with an offset; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        return None
    return instant.astimezone(UTC) if instant.tzinfo is not None else None


def _vulnerabilities(severities: object) -> tuple[Finding, ...] | None:
    if not isinstance(severities, Mapping) or set(severities) != set(SEVERITIES):
        return None
    found: list[Finding] = []
    for severity in SEVERITIES:
        counts = severities[severity]
        total, fixable = _count(counts, "total"), _count(counts, "fixable")
        if total is None or fixable is None or fixable > total:
            return None
        found.append(Finding(severity, fixable=True, count=fixable))
        found.append(Finding(severity, fixable=False, count=total - fixable))
    return tuple(item for item in found if item.count)


def _count(counts: object, name: str) -> int | None:
    value = counts.get(name) if isinstance(counts, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _malicious(items: object) -> tuple[str, ...] | None:
    pairs = _pairs(items, "path", "what")
    return None if pairs is None else tuple(f"{what} in {path}" for path, what in pairs)


def _problems(items: object) -> tuple[Problem, ...] | None:
    pairs = _pairs(items, "code", "message")
    return None if pairs is None else tuple(Problem(code, message) for code, message in pairs)


def _pairs(items: object, first: str, second: str) -> list[tuple[str, str]] | None:
    if not isinstance(items, list):
        return None
    pairs: list[tuple[str, str]] = []
    for item in items:
        one: Any = item.get(first) if isinstance(item, Mapping) else None
        two: Any = item.get(second) if isinstance(item, Mapping) else None
        if not isinstance(one, str) or not isinstance(two, str):
            return None
        pairs.append((one, two))
    return pairs
