"""A model version as the gate sees it: an index of one image and one checkpoint, complete and beyond reproach."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from berth.gates.decide import Approval, Evidence, Facts, Finding, Findings, Node, Problem, Signature
from berth.gates.policies import PRESETS, Policy, from_json

NOW = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


ROOT, IMAGE, CHECKPOINT, ATTESTATION = digest("a"), digest("b"), digest("c"), digest("d")
KEY, OTHER_KEY = "1" * 64, "2" * 64
STRICT, SCANNED, OPEN = PRESETS["strict"], PRESETS["scanned"], PRESETS["open"]


def policy(preset: str = "strict", **overrides: Any) -> Policy:
    return from_json({"preset": preset, **overrides})


def report(subject: str, kind: Any, *, age: timedelta = DAY, status: str = "ok", **findings: Any) -> Evidence:
    database = findings.pop("database_age", None)
    return Evidence(
        digest=subject,
        kind=kind,
        status=status,
        finished_at=NOW - age,
        findings=Findings(**findings),
        database_updated_at=None if database is None else NOW - database,
    )


def found(severity: str, *, fixable: bool = True, count: int = 1) -> tuple[Finding, ...]:
    return (Finding(severity, fixable, count),)


def problem(code: str) -> tuple[Problem, ...]:
    return (Problem(code, "what it is."),)


def signature(
    key: str | None = KEY, *, verdict: str = "valid", kind: str = "cosign-classic", reason: str = ""
) -> Signature:
    return Signature(key_id=key, verdict=verdict, kind=kind, reason=reason)


def approval(decision: str = "approved", principal: str = "rita") -> Approval:
    return Approval(decision, principal, NOW - DAY)


TREE = (
    Node(ROOT, "index", children=(IMAGE, CHECKPOINT)),
    Node(IMAGE, "image", platform="linux/amd64"),
    Node(CHECKPOINT, "checkpoint", platform="unknown/unknown"),
)
CLEAN = (
    report(IMAGE, "vulnerabilities"),
    report(IMAGE, "weights"),
    report(CHECKPOINT, "weights"),
)
GOOD = Facts(
    repository="vision/resnet",
    root=ROOT,
    tree=TREE,
    evidence=CLEAN,
    signatures=(signature(),),
    trusted_keys=frozenset({KEY}),
    approval=approval(),
    pushers=frozenset({"dana"}),
    version_states=("received",),
)


def but(**changes: Any) -> Facts:
    """The good version with these facts instead."""
    return replace(GOOD, **changes)


def with_child(node: Node, *reports: Evidence) -> Facts:
    """The good version with one more child in its index."""
    root = replace(TREE[0], children=(*TREE[0].children, node.digest))
    return but(tree=(root, *TREE[1:], node), evidence=(*CLEAN, *reports))


def with_report(new: Evidence, *earlier: Evidence) -> Facts:
    """The good version where this leaf and kind has these reports instead, `earlier` before `new`."""
    others = [item for item in CLEAN if (item.digest, item.kind) != (new.digest, new.kind)]
    return but(evidence=(*others, *earlier, new))


def without(*gone: Evidence) -> Facts:
    return but(evidence=tuple(item for item in CLEAN if item not in gone))
