"""What does a Trivy report (schema 2) say? Its JSON in, our summary out; anything of another shape is refused.

Nothing in the report is trusted to have the right type: names of packages come out of the scanned image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from berth.adapters.scanners.contract import (
    LISTED_FINDINGS,
    SEVERITIES,
    TOP_FINDINGS,
    Finding,
    Problem,
    SeverityCount,
    Summary,
    TopFinding,
)

_TEXT_LIMIT = 300


class ReportInvalidError(ValueError):
    """The document is not a Trivy report. Never leaves the Trivy adapter."""


@dataclass(frozen=True)
class Reading:
    """`looked` is false when neither an OS package nor a language package was found: nothing was judged."""

    summary: Summary
    looked: bool
    tool_version: str


def read(document: object) -> Reading:
    """Judge a parsed report.

    Raises:
        ReportInvalidError: naming the member that is wrong.
    """
    report = _object(document, "the report")
    if report.get("SchemaVersion") != 2:
        raise ReportInvalidError(f"SchemaVersion is {report.get('SchemaVersion')!r}, not 2")
    if not isinstance(report.get("ArtifactName"), str):
        raise ReportInvalidError("ArtifactName is missing")
    metadata = _object(report.get("Metadata") or {}, "Metadata")
    system = _object(metadata.get("OS") or {}, "Metadata.OS")
    results = [_object(r, "Results[]") for r in _list(report.get("Results"), "Results")]
    packages = sum(len(_list(r.get("Packages"), "Packages")) for r in results)
    system_packages = sum(len(_list(r.get("Packages"), "Packages")) for r in results if r.get("Class") == "os-pkgs")
    findings = [finding for result in results for finding in _vulnerabilities(result)]
    problems: list[Problem] = []
    name = f"{_text(system.get('Family'))} {_text(system.get('Name'))}".strip()
    if not packages:
        what = f"the OS ({name}) was recognised but not a single package" if name else "no OS and no package was found"
        # A from-scratch image may be allowed by policy; an OS whose package database is gone never is.
        problems.append(
            Problem(
                "os.no_packages" if name else "packages.none",
                f"Trivy could not judge the image: {what}. Build it on a base image whose package database is kept.",
            )
        )
    elif name and not system_packages:
        problems.append(
            Problem("os.no_packages", f"The image says it is {name} but its package database is missing or empty.")
        )
    if system.get("EOSL") is True:
        problems.append(Problem("os.end_of_life", f"{name} gets no security updates any more; move to a newer base."))
    return Reading(
        summary=Summary(
            severities=_counts(findings),
            suspicious=tuple(_secrets(results)),
            problems=tuple(problems),
            top=tuple(sorted(findings, key=_worst_first)[:TOP_FINDINGS]),
        ),
        looked=packages > 0,
        tool_version=_text(_object(report.get("Trivy") or {}, "Trivy").get("Version")),
    )


def _vulnerabilities(result: Mapping[str, Any]) -> Iterator[TopFinding]:
    for entry in _list(result.get("Vulnerabilities"), "Vulnerabilities"):
        found = _object(entry, "Vulnerabilities[]")
        if not isinstance(found.get("VulnerabilityID"), str):
            raise ReportInvalidError("a vulnerability has no VulnerabilityID")
        severity = found.get("Severity")
        yield TopFinding(
            id=_text(found["VulnerabilityID"]),
            package=_text(found.get("PkgName")),
            installed=_text(found.get("InstalledVersion")),
            fixed=_text(found.get("FixedVersion")),
            severity=severity if isinstance(severity, str) and severity in SEVERITIES else "UNKNOWN",
        )


def _secrets(results: list[dict[str, Any]]) -> Iterator[Finding]:
    left = LISTED_FINDINGS
    for result in results:
        for entry in _list(result.get("Secrets"), "Secrets"):
            if left <= 0:
                return
            left -= 1
            secret = _object(entry, "Secrets[]")
            # The matched text is never copied: the summary is shown to people who may not read the image.
            what = f"secret: {_text(secret.get('Title'))} ({_text(secret.get('Severity'))})"
            yield Finding(_text(result.get("Target")), f"{what}, line {_number(secret.get('StartLine'))}")


def _counts(findings: list[TopFinding]) -> dict[str, SeverityCount]:
    total = Counter(f.severity for f in findings)
    fixable = Counter(f.severity for f in findings if f.fixed)
    return {name: SeverityCount(total[name], fixable[name]) for name in SEVERITIES}


def _worst_first(finding: TopFinding) -> tuple[int, bool, str, str]:
    return SEVERITIES.index(finding.severity), not finding.fixed, finding.id, finding.package


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ReportInvalidError(f"{name} is not an object")
    return value


def _list(value: object, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ReportInvalidError(f"{name} is not a list")
    return value


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _text(value: object) -> str:
    return value[:_TEXT_LIMIT] if isinstance(value, str) else ""
