"""What must a scanner do? Look at one leaf manifest and say what it found, or that it could not look (design §6).

A scanner never raises for bad content or a broken tool: it answers with status `inconclusive` (it could not look:
no database, no OS, unreadable content) or `failed` (it crashed, hung or returned nonsense; or the content is not
what its manifest says) and with problems whose messages say what to do. The gate lets neither pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["vulnerabilities", "weights"]
Status = Literal["ok", "inconclusive", "failed"]

SEVERITIES: tuple[str, ...] = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN")
"""Worst first."""

TOP_FINDINGS = 50
LISTED_FINDINGS = 200


@dataclass(frozen=True)
class Subject:
    """One leaf manifest and where its blobs are.

    `path_of(digest)` gives the file of the depot that holds a blob (it may be absent); it raises a `BerthError` for
    a blob that the depot does not have. The file is read in place, never copied and never changed.
    """

    digest: str
    manifest: bytes
    media_type: str
    path_of: Callable[[str], Path]


@dataclass(frozen=True)
class SeverityCount:
    total: int = 0
    fixable: int = 0


@dataclass(frozen=True)
class Finding:
    """Something found at a path; `path` is 'layer N: path', with '!' before a member of an archive."""

    path: str
    what: str


@dataclass(frozen=True)
class Problem:
    """Something that the scanner could not do, or that is wrong with the content without being malicious."""

    code: str
    message: str


@dataclass(frozen=True)
class TopFinding:
    """One known vulnerability of one installed package; `fixed` is empty when no version fixes it."""

    id: str
    package: str
    installed: str
    fixed: str
    severity: str


@dataclass(frozen=True)
class Summary:
    """What the gate judges and lists show; kept in `evidence.summary`. The full report is kept beside it.

    `malicious` and `suspicious` hold at most `LISTED_FINDINGS` entries each, `top` at most `TOP_FINDINGS`.
    """

    severities: Mapping[str, SeverityCount] = field(default_factory=dict)
    malicious: tuple[Finding, ...] = ()
    suspicious: tuple[Finding, ...] = ()
    problems: tuple[Problem, ...] = ()
    top: tuple[TopFinding, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON object with every severity present, zero counts included."""
        counts = {name: self.severities.get(name, SeverityCount()) for name in SEVERITIES}
        return {
            "severities": {name: {"total": c.total, "fixable": c.fixable} for name, c in counts.items()},
            "malicious": [{"path": f.path, "what": f.what} for f in self.malicious],
            "suspicious": [{"path": f.path, "what": f.what} for f in self.suspicious],
            "problems": [{"code": p.code, "message": p.message} for p in self.problems],
            "top": [
                {
                    "id": t.id,
                    "package": t.package,
                    "installed": t.installed,
                    "fixed": t.fixed,
                    "severity": t.severity,
                }
                for t in self.top
            ],
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Summary:
        """Read back what `to_json` wrote; absent members read as empty."""
        return cls(
            severities={
                str(name): SeverityCount(int(c.get("total", 0)), int(c.get("fixable", 0)))
                for name, c in obj.get("severities", {}).items()
            },
            malicious=tuple(Finding(str(f["path"]), str(f["what"])) for f in obj.get("malicious", ())),
            suspicious=tuple(Finding(str(f["path"]), str(f["what"])) for f in obj.get("suspicious", ())),
            problems=tuple(Problem(str(p["code"]), str(p["message"])) for p in obj.get("problems", ())),
            top=tuple(
                TopFinding(
                    id=str(t["id"]),
                    package=str(t["package"]),
                    installed=str(t["installed"]),
                    fixed=str(t["fixed"]),
                    severity=str(t["severity"]),
                )
                for t in obj.get("top", ())
            ),
        )


@dataclass(frozen=True)
class ScanResult:
    """One scan of one leaf manifest, as it becomes a row of `evidence`.

    `database` names what the findings are measured against: for vulnerabilities `repository`, `digest` and
    `updated_at` (RFC 3339, UTC, whole seconds). `log` is what the tool said, bounded, for people.
    """

    kind: Kind
    status: Status
    summary: Summary
    tool: str
    tool_version: str
    database: Mapping[str, Any]
    report: bytes
    report_media_type: str
    log: str
    started_at: datetime
    finished_at: datetime


class Scanner(Protocol):
    async def scan(self, subject: Subject) -> ScanResult:
        """Scan one leaf manifest. Never raises for bad content or a broken tool."""
        ...

    async def version(self) -> dict[str, Any]:
        """{"tool", "version", "database"}: what a scan would use now; `version` is "" if the tool is unusable.

        A vulnerability scanner brings its database up to date first if that is due (at most one download at once).
        """
        ...


class VulnerabilityScanner(Scanner, Protocol):
    """Scans images for known vulnerabilities; `kind` of its results is "vulnerabilities"."""


class WeightScanner(Scanner, Protocol):
    """Scans any leaf for malicious weights; `kind` of its results is "weights"."""
