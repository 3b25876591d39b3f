"""What was found so far, and how much more may be read? One collector per scan, with every list bounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_LISTED = 200
_FILES = 5000
_TEXT = 600

# Problems that mean "could not look": the scan is inconclusive. Others only inform.
BLIND = frozenset(
    {
        "config.unreadable",
        "manifest.unreadable",
        "layer.foreign",
        "layer.missing",
        "layer.unreadable",
        "file.unreadable",
        "file.unsupported",
        "file.too_large",
        "pickle.too_large",
        "archive.too_large",
        "archive.too_deep",
        "problems.more",
    }
)
# Problems that mean "the content is not what its manifest says": the scan failed.
WRONG = frozenset({"layer.diff_id_mismatch"})


class LimitExceededError(Exception):
    """A limit of the whole scan was reached: reading stops here. Never leaves the child."""


@dataclass(frozen=True)
class Limits:
    """All sizes in bytes."""

    # Content that comes out of decompression or archives, over the whole scan.
    unpacked_bytes: int = 256 << 30
    # Above `ratio_from_bytes` of output, one compressed stream may not expand more than this.
    ratio: int = 200
    ratio_from_bytes: int = 1 << 30
    files: int = 2_000_000
    depth: int = 6
    # A file that needs random access but lies in a compressed stream is held in memory up to here.
    held_bytes: int = 1 << 30
    pickle_operations: int = 200_000_000
    pickle_stack: int = 20_000_000

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Limits:
        return cls(**{str(k): int(v) for k, v in obj.items()})


@dataclass
class Findings:
    """Collects results; `what` texts may quote names from the content, cut to a bounded length."""

    limits: Limits = field(default_factory=Limits)
    malicious: dict[tuple[str, str], None] = field(default_factory=dict)
    suspicious: dict[tuple[str, str], None] = field(default_factory=dict)
    problems: dict[tuple[str, str], None] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0
    unpacked: int = 0
    blind: bool = False
    wrong: bool = False

    def add_malicious(self, path: str, what: str) -> None:
        self._add(self.malicious, path, what)

    def add_suspicious(self, path: str, what: str) -> None:
        self._add(self.suspicious, path, what)

    def add_problem(self, code: str, message: str) -> None:
        self.blind = self.blind or code in BLIND
        self.wrong = self.wrong or code in WRONG
        self._add(self.problems, code, message)

    def add_file(self, path: str, kind: str, **facts: Any) -> None:
        """Note a file that was looked into, for the full report."""
        if len(self.files) < _FILES:
            self.files.append({"path": path[:_TEXT], "kind": kind, **facts})

    def begin_file(self) -> None:
        """Count one file. Raises LimitExceededError."""
        self.count += 1
        if self.count > self.limits.files:
            self.add_problem("archive.too_large", f"More than {self.limits.files} files; the rest was not looked at.")
            raise LimitExceededError

    def unpack(self, size: int) -> None:
        """Count bytes that came out of an archive. Raises LimitExceededError."""
        self.unpacked += size
        if self.unpacked > self.limits.unpacked_bytes:
            self.add_problem(
                "archive.too_large",
                f"More than {self.limits.unpacked_bytes} bytes came out of archives; the rest was not looked at.",
            )
            raise LimitExceededError

    @staticmethod
    def _add(into: dict[tuple[str, str], None], first: str, second: str) -> None:
        if len(into) < _LISTED:
            into[(first[:_TEXT], second[:_TEXT])] = None

    def status(self) -> str:
        return "failed" if self.wrong else "inconclusive" if self.blind else "ok"

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status(),
            "malicious": [{"path": p, "what": w} for p, w in self.malicious],
            "suspicious": [{"path": p, "what": w} for p, w in self.suspicious],
            "problems": [{"code": c, "message": m} for c, m in self.problems],
            "files": self.files,
            "files_total": self.count,
            "unpacked_bytes": self.unpacked,
        }
