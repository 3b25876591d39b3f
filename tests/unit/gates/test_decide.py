"""The gate's decision table, written by hand from design §6: a line is a rule, each refusal has its admitted twin."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from berth.gates.decide import CLOCK_TOLERANCE, CODES, FOREVER, Facts, Node, Verdict, decide, evidence_hash
from berth.gates.policies import Policy
from tests.unit.gates.made import (
    ATTESTATION,
    CHECKPOINT,
    CLEAN,
    DAY,
    GOOD,
    IMAGE,
    KEY,
    NOW,
    OPEN,
    OTHER_KEY,
    ROOT,
    SCANNED,
    STRICT,
    TICK,
    TREE,
    approval,
    but,
    digest,
    found,
    policy,
    problem,
    report,
    signature,
    with_child,
    with_report,
    without,
)

VULN, WEIGHTS = "vulnerabilities", "weights"
EXTRA = digest("e")


def codes(verdict: Verdict) -> list[str]:
    return [reason.code for reason in verdict.reasons]


def judge(facts: Facts, rules: Policy = STRICT) -> list[str]:
    """'admitted', or the codes of the reasons to deny in the order shown."""
    verdict = decide(facts, rules, NOW)
    return ["admitted"] if verdict.admitted else codes(verdict)


TABLE: list[tuple[str, Facts, Policy, list[str]]] = [
    # presets
    ("a complete version passes strict", GOOD, STRICT, ["admitted"]),
    ("scanned needs no signature and no approval", but(signatures=(), approval=None), SCANNED, ["admitted"]),
    ("open asks for nothing", but(signatures=(), approval=None, evidence=(), tree=()), OPEN, ["admitted"]),
    (
        "a bare push is denied by strict for everything that is missing",
        but(signatures=(), approval=None, evidence=()),
        STRICT,
        ["weights.missing", "weights.missing", "scan.missing", "signature.missing", "approval.missing"],
    ),
    (
        "a bare push is denied by scanned for its scans only",
        but(signatures=(), approval=None, evidence=()),
        SCANNED,
        ["weights.missing", "weights.missing", "scan.missing"],
    ),
    # which leaf needs what
    ("an image needs a vulnerability scan", without(CLEAN[0]), SCANNED, ["scan.missing"]),
    ("an image needs a weight scan", without(CLEAN[1]), SCANNED, ["weights.missing"]),
    ("a checkpoint needs a weight scan", without(CLEAN[2]), SCANNED, ["weights.missing"]),
    (
        "a checkpoint needs no vulnerability scan",
        but(tree=(Node(CHECKPOINT, "checkpoint"),), root=CHECKPOINT, evidence=CLEAN[2:]),
        SCANNED,
        ["admitted"],
    ),
    (
        "an image alone is a version",
        but(tree=(Node(IMAGE, "image"),), root=IMAGE, evidence=CLEAN[:2]),
        SCANNED,
        ["admitted"],
    ),
    ("an attestation needs a weight scan", with_child(Node(ATTESTATION, "attestation")), SCANNED, ["weights.missing"]),
    (
        "an attestation needs no vulnerability scan",
        with_child(Node(ATTESTATION, "attestation"), report(ATTESTATION, WEIGHTS)),
        SCANNED,
        ["admitted"],
    ),
    (
        "every platform is judged",
        with_child(Node(EXTRA, "image", platform="linux/arm64"), report(EXTRA, WEIGHTS)),
        SCANNED,
        ["scan.missing"],
    ),
    (
        "every platform with its scans passes",
        with_child(Node(EXTRA, "image", platform="linux/arm64"), report(EXTRA, WEIGHTS), report(EXTRA, VULN)),
        SCANNED,
        ["admitted"],
    ),
    (
        "the report of one platform does not count for another",
        with_child(Node(EXTRA, "image"), report(EXTRA, WEIGHTS), report(IMAGE, VULN)),
        SCANNED,
        ["scan.missing"],
    ),
    (
        "a weight scan can be left out by policy",
        without(*CLEAN[1:]),
        policy("scanned", require_weight_scan=False),
        ["admitted"],
    ),
    (
        "a vulnerability scan can be left out by policy",
        without(CLEAN[0]),
        policy("scanned", require_vulnerability_scan=False),
        ["admitted"],
    ),
    # status
    ("a failed vulnerability scan", with_report(report(IMAGE, VULN, status="failed")), SCANNED, ["scan.failed"]),
    ("a failed weight scan", with_report(report(IMAGE, WEIGHTS, status="failed")), SCANNED, ["weights.failed"]),
    ("an inconclusive one", with_report(report(IMAGE, VULN, status="inconclusive")), SCANNED, ["scan.inconclusive"]),
    (
        "an inconclusive weight scan",
        with_report(report(CHECKPOINT, WEIGHTS, status="inconclusive")),
        SCANNED,
        ["weights.inconclusive"],
    ),
    ("a status nobody knows", with_report(report(IMAGE, VULN, status="fine")), SCANNED, ["scan.inconclusive"]),
    (
        "a summary nobody understands",
        with_report(replace(report(IMAGE, VULN), findings=None)),
        SCANNED,
        ["scan.inconclusive"],
    ),
    (
        "the latest report counts: failed after ok",
        with_report(report(IMAGE, VULN, status="failed", age=timedelta(0)), report(IMAGE, VULN)),
        SCANNED,
        ["scan.failed"],
    ),
    (
        "the latest report counts: ok after failed",
        with_report(report(IMAGE, VULN), report(IMAGE, VULN, status="failed", age=2 * DAY)),
        SCANNED,
        ["admitted"],
    ),
    (
        "an empty image is inconclusive",
        with_report(report(IMAGE, VULN, status="inconclusive", no_packages=True, problems=problem("packages.none"))),
        SCANNED,
        ["scan.inconclusive"],
    ),
    (
        "an empty image passes where the policy says so",
        with_report(report(IMAGE, VULN, status="inconclusive", no_packages=True, problems=problem("packages.none"))),
        policy("scanned", allow_no_packages=True),
        ["admitted"],
    ),
    (
        "that policy spares nothing else that is inconclusive",
        with_report(report(IMAGE, VULN, status="inconclusive", problems=problem("database.missing"))),
        policy("scanned", allow_no_packages=True),
        ["scan.inconclusive"],
    ),
    (
        "that policy spares no failed scan",
        with_report(report(IMAGE, VULN, status="failed", no_packages=True)),
        policy("scanned", allow_no_packages=True),
        ["scan.failed"],
    ),
    (
        "that policy spares no status nobody knows",
        with_report(report(IMAGE, VULN, status="fine", no_packages=True)),
        policy("scanned", allow_no_packages=True),
        ["scan.inconclusive"],
    ),
    (
        "that policy is about vulnerabilities, not weights",
        with_report(report(IMAGE, WEIGHTS, status="inconclusive", no_packages=True)),
        policy("scanned", allow_no_packages=True),
        ["weights.inconclusive"],
    ),
    (
        "a removed package list hides everything",
        with_report(report(IMAGE, VULN, problems=problem("os.no_packages"))),
        policy("scanned", allow_no_packages=True),
        ["scan.inconclusive"],
    ),
    (
        "other problems of a finished scan are for people",
        with_report(report(IMAGE, VULN, problems=problem("os.end_of_life"))),
        SCANNED,
        ["admitted"],
    ),
    (
        "a layer that is not what it says",
        with_report(report(IMAGE, WEIGHTS, problems=problem("layer.diff_id"))),
        SCANNED,
        ["content.unreadable"],
    ),
    (
        "a foreign layer that only the scanner noticed",
        with_report(report(IMAGE, WEIGHTS, problems=problem("layer.foreign"))),
        SCANNED,
        ["content.foreign_layer"],
    ),
    # findings
    (
        "CRITICAL with a fix",
        with_report(report(IMAGE, VULN, vulnerabilities=found("CRITICAL"))),
        SCANNED,
        ["scan.vulnerable"],
    ),
    ("HIGH with a fix", with_report(report(IMAGE, VULN, vulnerabilities=found("HIGH"))), SCANNED, ["scan.vulnerable"]),
    ("MEDIUM with a fix", with_report(report(IMAGE, VULN, vulnerabilities=found("MEDIUM"))), SCANNED, ["admitted"]),
    (
        "CRITICAL without a fix",
        with_report(report(IMAGE, VULN, vulnerabilities=found("CRITICAL", fixable=False))),
        SCANNED,
        ["admitted"],
    ),
    (
        "CRITICAL without a fix where fixes do not matter",
        with_report(report(IMAGE, VULN, vulnerabilities=found("CRITICAL", fixable=False))),
        policy("scanned", only_fixable=False),
        ["scan.vulnerable"],
    ),
    (
        "a count of zero is no finding",
        with_report(report(IMAGE, VULN, vulnerabilities=found("CRITICAL", count=0))),
        SCANNED,
        ["admitted"],
    ),
    (
        "LOW where the policy names it",
        with_report(report(IMAGE, VULN, vulnerabilities=found("LOW"))),
        policy("scanned", deny_severities=["LOW"]),
        ["scan.vulnerable"],
    ),
    (
        "CRITICAL where the policy names only LOW",
        with_report(report(IMAGE, VULN, vulnerabilities=found("CRITICAL"))),
        policy("scanned", deny_severities=["LOW"]),
        ["admitted"],
    ),
    (
        "malicious weights",
        with_report(report(CHECKPOINT, WEIGHTS, malicious=("os.system in weights.pkl",))),
        SCANNED,
        ["weights.malicious"],
    ),
    (
        "malicious content in an image",
        with_report(report(IMAGE, WEIGHTS, malicious=("os.system in weights.pkl",))),
        SCANNED,
        ["weights.malicious"],
    ),
    (
        "malicious content is named even if the scan failed later",
        with_report(report(CHECKPOINT, WEIGHTS, status="failed", malicious=("os.system in weights.pkl",))),
        SCANNED,
        ["weights.malicious", "weights.failed"],
    ),
    (
        "vulnerabilities are named even if the scan came to no end",
        with_report(report(IMAGE, VULN, status="inconclusive", vulnerabilities=found("HIGH"))),
        SCANNED,
        ["scan.vulnerable", "scan.inconclusive"],
    ),
    # age
    ("a report of 30 days is stale", with_report(report(IMAGE, VULN, age=30 * DAY)), SCANNED, ["scan.stale"]),
    ("a report of a bit less is not", with_report(report(IMAGE, VULN, age=30 * DAY - TICK)), SCANNED, ["admitted"]),
    ("a weight scan grows old too", with_report(report(CHECKPOINT, WEIGHTS, age=30 * DAY)), SCANNED, ["weights.stale"]),
    (
        "the policy says how old is too old",
        with_report(report(IMAGE, VULN, age=30 * DAY)),
        policy("scanned", max_report_age_days=31),
        ["admitted"],
    ),
    (
        "a new report of an old database knows only old things",
        with_report(report(IMAGE, VULN, database_age=30 * DAY)),
        SCANNED,
        ["scan.stale"],
    ),
    (
        "a database of yesterday does not rejuvenate an old report",
        with_report(report(IMAGE, VULN, age=30 * DAY, database_age=DAY)),
        SCANNED,
        ["scan.stale"],
    ),
    (
        "a report from the future",
        with_report(report(IMAGE, VULN, age=-(CLOCK_TOLERANCE + TICK))),
        SCANNED,
        ["scan.inconclusive"],
    ),
    ("clocks may differ a little", with_report(report(IMAGE, VULN, age=-CLOCK_TOLERANCE)), SCANNED, ["admitted"]),
    # content
    ("a child nobody can judge", with_child(Node(EXTRA, "unknown")), SCANNED, ["content.unknown"]),
    ("a role nobody knows", with_child(Node(EXTRA, "helm")), SCANNED, ["content.unknown"]),
    ("evidence as a child", with_child(Node(EXTRA, "evidence")), SCANNED, ["content.unknown"]),
    ("an empty index inside", with_child(Node(EXTRA, "index")), SCANNED, ["content.unknown"]),
    (
        "an index inside an index is judged by its children",
        with_child(Node(EXTRA, "index", children=(IMAGE,))),
        SCANNED,
        ["admitted"],
    ),
    (
        "an index inside names something that is not here",
        with_child(Node(EXTRA, "index", children=(ATTESTATION,))),
        SCANNED,
        ["content.unreadable"],
    ),
    (
        "an empty index",
        but(tree=(Node(ROOT, "index"),), evidence=()),
        SCANNED,
        ["content.unknown", "content.unknown"],
    ),
    (
        "nothing but attestations",
        but(
            tree=(Node(ROOT, "index", children=(ATTESTATION,)), Node(ATTESTATION, "attestation")),
            evidence=(report(ATTESTATION, WEIGHTS),),
        ),
        SCANNED,
        ["content.unknown"],
    ),
    ("a child that is not here", but(tree=TREE[:2], evidence=CLEAN[:2]), SCANNED, ["content.unreadable"]),
    ("a root that is not here", but(tree=TREE[1:]), SCANNED, ["content.unreadable"]),
    ("nothing known at all", but(tree=(), evidence=()), SCANNED, ["content.unreadable", "content.unknown"]),
    (
        "a manifest that cannot be read",
        but(tree=(*TREE[:2], replace(TREE[2], problems=problem("content.unreadable")))),
        SCANNED,
        ["content.unreadable"],
    ),
    (
        "a layer that lives elsewhere",
        but(tree=(*TREE[:2], replace(TREE[2], problems=problem("content.foreign_layer")))),
        SCANNED,
        ["content.foreign_layer"],
    ),
    # signatures
    ("no signature", but(signatures=()), STRICT, ["signature.missing"]),
    (
        "a signature by a stranger",
        but(signatures=(signature(OTHER_KEY, verdict="untrusted"),)),
        STRICT,
        ["signature.untrusted"],
    ),
    (
        "a broken signature by a trusted key",
        but(signatures=(signature(verdict="invalid"),)),
        STRICT,
        ["signature.untrusted"],
    ),
    ("a valid one by a key trusted no more", but(trusted_keys=frozenset()), STRICT, ["signature.untrusted"]),
    ("a valid one by nobody", but(signatures=(signature(None),)), STRICT, ["signature.untrusted"]),
    ("an attestation is no signature", but(signatures=(signature(kind="attestation"),)), STRICT, ["signature.missing"]),
    ("a bundle is one", but(signatures=(signature(kind="sigstore-bundle"),)), STRICT, ["admitted"]),
    ("a Notation signature is one", but(signatures=(signature(kind="notation"),)), STRICT, ["admitted"]),
    (
        "strangers spoil nothing",
        but(signatures=(signature(OTHER_KEY, verdict="untrusted"), signature(), signature(None, verdict="invalid"))),
        STRICT,
        ["admitted"],
    ),
    (
        "two of two keys",
        but(signatures=(signature(), signature(OTHER_KEY)), trusted_keys=frozenset({KEY, OTHER_KEY})),
        policy(required_signatures=2),
        ["admitted"],
    ),
    ("one of two keys", GOOD, policy(required_signatures=2), ["signature.missing"]),
    (
        "the same key twice is one key",
        but(signatures=(signature(), signature(kind="sigstore-bundle")), trusted_keys=frozenset({KEY, OTHER_KEY})),
        policy(required_signatures=2),
        ["signature.missing"],
    ),
    (
        "more keys than asked for",
        but(signatures=(signature(), signature(OTHER_KEY)), trusted_keys=frozenset({KEY, OTHER_KEY})),
        STRICT,
        ["admitted"],
    ),
    # approval
    ("no approval", but(approval=None), STRICT, ["approval.missing"]),
    ("rejected", but(approval=approval("rejected"), revoked=frozenset({ROOT})), STRICT, ["approval.rejected"]),
    ("revoked", but(approval=approval("revoked"), revoked=frozenset({ROOT})), STRICT, ["approval.revoked"]),
    ("a decision nobody knows", but(approval=approval("maybe")), STRICT, ["approval.revoked"]),
    (
        "rejection counts where no approval is needed",
        but(approval=approval("rejected")),
        SCANNED,
        ["approval.rejected"],
    ),
    ("revocation counts in open projects", but(approval=approval("revoked")), OPEN, ["approval.revoked"]),
    ("approved by who pushed it, four eyes off", but(approval=approval(principal="dana")), STRICT, ["admitted"]),
    (
        "approved by who pushed it, four eyes on",
        but(approval=approval(principal="dana")),
        policy(four_eyes=True),
        ["approval.four_eyes"],
    ),
    ("approved by another, four eyes on", GOOD, policy(four_eyes=True), ["admitted"]),
    (
        "four eyes, but nobody knows who pushed it",
        but(pushers=frozenset()),
        policy(four_eyes=True),
        ["approval.four_eyes"],
    ),
    (
        "four eyes, but nobody knows who approved it",
        but(approval=approval(principal="")),
        policy(four_eyes=True),
        ["approval.four_eyes"],
    ),
    (
        "four eyes, approved by one of two who pushed it",
        but(pushers=frozenset({"dana", "rita"})),
        policy(four_eyes=True),
        ["approval.four_eyes"],
    ),
    ("four eyes mean nothing without an approval", but(approval=None), policy("scanned", four_eyes=True), ["admitted"]),
    ("a revoked child", but(revoked=frozenset({CHECKPOINT})), STRICT, ["child.revoked"]),
    ("a revoked child in an open project", but(revoked=frozenset({CHECKPOINT})), OPEN, ["child.revoked"]),
    ("what is revoked elsewhere in the repository", but(revoked=frozenset({EXTRA})), STRICT, ["admitted"]),
    # existence
    ("deleted", but(version_states=("deleted",)), STRICT, ["version.deleted"]),
    ("archived", but(version_states=("archived",)), STRICT, ["version.archived"]),
    ("live", but(version_states=("live",)), STRICT, ["admitted"]),
    (
        "deleted under one number, alive under another",
        but(version_states=("deleted", "received")),
        STRICT,
        ["admitted"],
    ),
    (
        "deleted under one number, archived under another",
        but(version_states=("archived", "deleted")),
        STRICT,
        ["version.archived"],
    ),
    ("a state nobody knows", but(version_states=("gone",)), STRICT, ["version.deleted"]),
    ("deleted, but tagged otherwise", but(version_states=("deleted",), tagged=True), STRICT, ["admitted"]),
    ("no version at all, a child or a plain tag", but(version_states=()), STRICT, ["admitted"]),
    ("deleted in an open project", but(version_states=("deleted",)), OPEN, ["version.deleted"]),
]


@pytest.mark.parametrize(("facts", "rules", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_decision_table(facts: Facts, rules: Policy, expected: list[str]) -> None:
    assert judge(facts, rules) == expected


AFTER = {"admitted_before": NOW - 20 * DAY}
BAD: dict[str, Any] = {"vulnerabilities": found("HIGH")}


def history(*ages_and_bad: tuple[int, bool], admitted: int | None = 20) -> Facts:
    """Vulnerability reports of the image, oldest first: (age in days, whether it finds something)."""
    reports = [report(IMAGE, VULN, age=age * DAY, **(BAD if bad else {})) for age, bad in ages_and_bad]
    facts = with_report(reports[-1], *reports[:-1])
    return replace(facts, admitted_before=None if admitted is None else NOW - admitted * DAY)


GRACE: list[tuple[str, Facts, dict[str, Any], list[str]]] = [
    ("block is the default", history((25, False), (5, True)), {}, ["scan.vulnerable"]),
    ("within the grace", history((25, False), (5, True)), {"on_new_finding": {"grace_days": 6}}, ["admitted"]),
    (
        "the grace is over to the day",
        history((25, False), (5, True)),
        {"on_new_finding": {"grace_days": 5}},
        ["scan.vulnerable"],
    ),
    (
        "warn never denies",
        history((29, False), (28, True), (2, True), admitted=29),
        {"on_new_finding": "warn"},
        ["admitted"],
    ),
    (
        "a new version gets no grace",
        history((25, False), (5, True), admitted=None),
        {"on_new_finding": "warn"},
        ["scan.vulnerable"],
    ),
    (
        "admitted at the very moment of the finding",
        history((25, False), (20, True)),
        {"on_new_finding": "warn"},
        ["admitted"],
    ),
    (
        "known before it was admitted",
        history((25, False), (21, True), (5, True)),
        {"on_new_finding": "warn"},
        ["scan.vulnerable"],
    ),
    ("never seen clean, so nothing is new", history((5, True)), {"on_new_finding": "warn"}, ["scan.vulnerable"]),
    (
        "scanning again does not renew the grace",
        history((25, False), (9, True), (5, True), (1, True)),
        {"on_new_finding": {"grace_days": 9}},
        ["scan.vulnerable"],
    ),
    (
        "a clean report in between starts it anew",
        history((25, False), (9, True), (5, False), (4, True)),
        {"on_new_finding": {"grace_days": 5}},
        ["admitted"],
    ),
    (
        "malicious weights get no grace",
        but(evidence=(*CLEAN, report(CHECKPOINT, WEIGHTS, malicious=("x",))), **AFTER),
        {"on_new_finding": "warn", "on_stale_report": "warn"},
        ["weights.malicious"],
    ),
    (
        "revoking ignores grace",
        but(approval=approval("revoked"), **AFTER),
        {"on_new_finding": "warn", "on_stale_report": "warn"},
        ["approval.revoked"],
    ),
    ("a stale report: block is the default", history((35, False), admitted=20), {}, ["scan.stale"]),
    ("stale within the grace", history((35, False), admitted=20), {"on_stale_report": {"grace_days": 6}}, ["admitted"]),
    (
        "first admitted when it was stale already",
        history((35, False), admitted=4),
        {"on_stale_report": {"grace_days": 6}},
        ["scan.stale"],
    ),
    (
        "stale, admitted while the report was fresh",
        history((35, False), admitted=34),
        {"on_stale_report": {"grace_days": 6}},
        ["admitted"],
    ),
    (
        "stale, the grace is over",
        history((35, False), admitted=34),
        {"on_stale_report": {"grace_days": 5}},
        ["scan.stale"],
    ),
    ("stale, only a warning", history((300, False), admitted=299), {"on_stale_report": "warn"}, ["admitted"]),
    (
        "stale, only a warning, but never admitted",
        history((300, False), admitted=None),
        {"on_stale_report": "warn"},
        ["scan.stale"],
    ),
    (
        "grace for findings is none for age",
        history((35, False), admitted=34),
        {"on_new_finding": "warn"},
        ["scan.stale"],
    ),
]


@pytest.mark.parametrize(("facts", "overrides", "expected"), [row[1:] for row in GRACE], ids=[row[0] for row in GRACE])
def test_grace_for_what_was_admitted_before(facts: Facts, overrides: dict[str, Any], expected: list[str]) -> None:
    assert judge(facts, policy(**overrides)) == expected


@pytest.mark.parametrize("between", ["failed", "inconclusive"])
def test_a_scan_without_result_neither_ends_nor_renews_a_finding(between: str) -> None:
    reports = [
        report(IMAGE, VULN, age=15 * DAY),
        report(IMAGE, VULN, age=9 * DAY, **BAD),
        report(IMAGE, VULN, age=5 * DAY, status=between),
        report(IMAGE, VULN, age=DAY, **BAD),
    ]
    facts = replace(with_report(reports[-1], *reports[:-1]), admitted_before=NOW - 14 * DAY)
    assert judge(facts, policy(on_new_finding={"grace_days": 9})) == ["scan.vulnerable"]
    assert judge(facts, policy(on_new_finding={"grace_days": 10})) == ["admitted"]


def test_only_a_usable_report_counts_as_clean_before_a_finding() -> None:
    odd = replace(report(IMAGE, VULN, age=25 * DAY), findings=None)
    facts = replace(with_report(report(IMAGE, VULN, **BAD), odd), admitted_before=NOW - 20 * DAY)
    assert judge(facts, policy(on_new_finding="warn")) == ["scan.vulnerable"]


# Time: the instants are worked out by hand from the facts above (reports are one day old, 30 days is the limit).


@pytest.mark.parametrize(
    ("facts", "rules", "until"),
    [
        (GOOD, STRICT, NOW + 29 * DAY),
        (with_report(report(IMAGE, VULN, age=10 * DAY)), STRICT, NOW + 20 * DAY),
        (with_report(report(IMAGE, VULN, database_age=12 * DAY)), STRICT, NOW + 18 * DAY),
        (GOOD, policy(max_report_age_days=2), NOW + DAY),
        (GOOD, OPEN, FOREVER),
        (but(evidence=()), STRICT, FOREVER),
        (history((25, False), (5, True)), policy(on_new_finding={"grace_days": 6}), NOW + DAY),
        (history((35, False), admitted=34), policy(on_stale_report={"grace_days": 6}), NOW + DAY),
        (with_report(report(IMAGE, VULN, age=-2 * CLOCK_TOLERANCE)), STRICT, NOW + CLOCK_TOLERANCE),
        (with_report(report(IMAGE, VULN, age=30 * DAY)), STRICT, NOW + 29 * DAY),
        (but(signatures=()), STRICT, NOW + 29 * DAY),
    ],
)
def test_the_verdict_says_until_when_it_holds(facts: Facts, rules: Policy, until: Any) -> None:
    assert decide(facts, rules, NOW).valid_until == until


def test_a_grace_that_ends_now_is_over_and_not_the_next_change() -> None:
    verdict = decide(history((25, False), (5, True)), policy(on_new_finding={"grace_days": 5}), NOW)
    assert not verdict.admitted
    assert verdict.valid_until == NOW + 25 * DAY


def test_the_two_constants_of_time() -> None:
    assert datetime(9999, 1, 1, tzinfo=UTC) == FOREVER
    assert timedelta(hours=1) == CLOCK_TOLERANCE


# What people read.


def test_an_admission_says_what_it_rests_on() -> None:
    verdict = decide(GOOD, STRICT, NOW)
    assert codes(verdict) == [
        "scan.ok",
        "weights.ok",
        "weights.ok",
        "signature.valid",
        "approval.approved",
        "four_eyes.off",
    ]
    assert [reason.subject for reason in verdict.reasons] == [IMAGE, IMAGE, CHECKPOINT, None, None, None]
    assert KEY in verdict.reasons[3].message
    assert "rita" in verdict.reasons[4].message
    assert "2026-06-14" in verdict.reasons[4].message


def test_an_admission_says_what_was_not_asked() -> None:
    assert codes(decide(GOOD, policy(four_eyes=True), NOW))[-1] == "approval.approved"
    assert codes(decide(GOOD, OPEN, NOW)) == ["policy.open"]
    assert codes(decide(GOOD, policy("scanned", require_weight_scan=False), NOW)) == [
        "weights.not_required",
        "scan.ok",
        "signature.not_required",
        "approval.not_required",
    ]
    assert codes(decide(GOOD, policy("scanned", require_vulnerability_scan=False), NOW))[0] == "scan.not_required"


def test_what_was_only_tolerated_is_said_on_admission() -> None:
    vulnerable = decide(history((25, False), (5, True)), policy(on_new_finding="warn"), NOW)
    assert "scan.vulnerable" in codes(vulnerable)
    stale = decide(history((300, False), admitted=299), policy(on_stale_report="warn"), NOW)
    assert "scan.stale" in codes(stale)


MESSAGES: list[tuple[Facts, str, list[str]]] = [
    (but(signatures=()), "signature.missing", ["0 of 1", f"xumi sign vision/resnet@{ROOT}"]),
    (
        but(signatures=(signature(OTHER_KEY, verdict="untrusted", reason="unknown_key"), signature(verdict="invalid"))),
        "signature.untrusted",
        ["(invalid, unknown_key)", f"xumi sign vision/resnet@{ROOT}", "berth key trust"],
    ),
    (but(approval=None), "approval.missing", [f"xumi approve vision/resnet@{ROOT}"]),
    (but(approval=approval("rejected")), "approval.rejected", ["rita", f"xumi approve vision/resnet@{ROOT}"]),
    (but(approval=approval("revoked")), "approval.revoked", ["rita", f"xumi approve vision/resnet@{ROOT}"]),
    (but(evidence=CLEAN[1:]), "scan.missing", ["linux/amd64", IMAGE[:19], f"xumi scan vision/resnet@{ROOT}"]),
    (but(evidence=CLEAN[:2]), "weights.missing", [CHECKPOINT[:19], f"xumi scan vision/resnet@{ROOT}"]),
    (with_report(report(IMAGE, VULN, status="failed")), "scan.failed", ["log", f"xumi scan vision/resnet@{ROOT}"]),
    (
        with_report(report(IMAGE, VULN, status="inconclusive", problems=problem("database.missing"))),
        "scan.inconclusive",
        ["(what it is.)", f"xumi scan vision/resnet@{ROOT}"],
    ),
    (with_report(replace(report(IMAGE, VULN), findings=None)), "scan.inconclusive", ["(odd summary)"]),
    (with_report(report(IMAGE, VULN, age=-DAY)), "scan.inconclusive", ["future", "clocks"]),
    (with_report(report(IMAGE, VULN, age=31 * DAY)), "scan.stale", ["2026-05-15", "30 days", "xumi scan"]),
    (
        with_report(
            report(IMAGE, VULN, vulnerabilities=(*found("HIGH", count=3), *found("CRITICAL", count=2), *found("HIGH")))
        ),
        "scan.vulnerable",
        ["fixable vulnerabilities: 2 CRITICAL, 4 HIGH", "update the packages"],
    ),
    (
        with_report(report(CHECKPOINT, WEIGHTS, malicious=("one", "two", "three", "four", "five", "six"))),
        "weights.malicious",
        ["one, two, three, four, five; remove it"],
    ),
    (with_child(Node(EXTRA, "unknown")), "content.unknown", [EXTRA[:19], "push the version without it"]),
    (with_child(Node(EXTRA, "index", children=(ATTESTATION,))), "content.unreadable", [ATTESTATION, EXTRA[:19]]),
    (but(revoked=frozenset({CHECKPOINT})), "child.revoked", [CHECKPOINT[:19], "push a version without it"]),
    (but(version_states=("deleted",)), "version.deleted", ["push it again"]),
    (but(version_states=("archived",)), "version.archived", ["restore it first"]),
]


@pytest.mark.parametrize(("facts", "code", "parts"), MESSAGES, ids=[row[1] for row in MESSAGES])
def test_a_reason_names_the_thing_and_the_next_step(facts: Facts, code: str, parts: list[str]) -> None:
    reason = next(reason for reason in decide(facts, STRICT, NOW).reasons if reason.code == code)
    for part in parts:
        assert part in reason.message


def test_four_eyes_names_who_approved() -> None:
    reasons = decide(but(approval=approval(principal="dana")), policy(four_eyes=True), NOW).reasons
    assert reasons[0].message.startswith("dana approved")


def test_unfixable_findings_are_not_called_fixable() -> None:
    facts = with_report(report(IMAGE, VULN, vulnerabilities=found("HIGH", fixable=False)))
    message = decide(facts, policy(only_fixable=False), NOW).reasons[0].message
    assert "has vulnerabilities: 1 HIGH" in message


def test_reasons_about_children_carry_their_digest() -> None:
    tree = (*TREE[:2], replace(TREE[2], problems=problem("content.unreadable")))
    cases = {
        IMAGE: but(evidence=CLEAN[1:]),
        CHECKPOINT: but(tree=tree),
        EXTRA: with_child(Node(EXTRA, "unknown")),
        ATTESTATION: with_child(Node(EXTRA, "index", children=(ATTESTATION,))),
    }
    for subject, facts in cases.items():
        assert [reason.subject for reason in decide(facts, STRICT, NOW).reasons] == [subject]
    assert decide(but(revoked=frozenset({IMAGE})), STRICT, NOW).reasons[0].subject == IMAGE
    assert decide(but(tree=()), STRICT, NOW).reasons[0].subject == ROOT


@pytest.mark.parametrize(
    ("facts", "subject"),
    [
        (with_report(report(IMAGE, VULN, status="failed")), IMAGE),
        (with_report(report(IMAGE, VULN, status="inconclusive")), IMAGE),
        (with_report(report(IMAGE, VULN, age=-DAY)), IMAGE),
        (with_report(report(IMAGE, VULN, age=31 * DAY)), IMAGE),
        (with_report(report(IMAGE, VULN, vulnerabilities=found("HIGH"))), IMAGE),
        (with_report(report(CHECKPOINT, WEIGHTS, malicious=("x",))), CHECKPOINT),
        (with_report(report(IMAGE, WEIGHTS, problems=problem("layer.diff_id"))), IMAGE),
        (with_child(Node(EXTRA, "index")), EXTRA),
    ],
)
def test_reasons_about_reports_carry_the_leafs_digest(facts: Facts, subject: str) -> None:
    assert [reason.subject for reason in decide(facts, STRICT, NOW).reasons] == [subject]


def test_the_worst_reason_comes_first() -> None:
    facts = but(
        evidence=(report(IMAGE, VULN, vulnerabilities=found("HIGH")), report(CHECKPOINT, WEIGHTS, malicious=("x",))),
        signatures=(),
        approval=approval("rejected"),
    )
    assert judge(facts) == [
        "weights.malicious",
        "approval.rejected",
        "scan.vulnerable",
        "weights.missing",
        "signature.missing",
    ]


def test_equal_reasons_are_ordered_by_subject_and_then_by_message() -> None:
    by_subject = decide(but(evidence=CLEAN[:1], tree=tuple(reversed(TREE))), STRICT, NOW)
    assert [reason.subject for reason in by_subject.reasons] == [IMAGE, CHECKPOINT]
    two = (*problem("content.unreadable"), replace(problem("content.unreadable")[0], message="another thing."))
    by_message = decide(but(tree=(*TREE[:2], replace(TREE[2], problems=two))), STRICT, NOW)
    assert [reason.message.rpartition(": ")[2] for reason in by_message.reasons] == ["another thing.", "what it is."]
    mixed = decide(but(evidence=CLEAN[:1], tree=()), STRICT, NOW)
    assert [reason.code for reason in mixed.reasons] == ["content.unreadable", "content.unknown"]


def test_every_code_stands_once_in_the_order_of_severity() -> None:
    assert len(set(CODES)) == len(CODES)
    assert CODES[0] == "policy.invalid"
    assert CODES[-1] == "approval.missing"


def test_reasons_as_json() -> None:
    verdict = decide(but(evidence=CLEAN[1:], signatures=()), STRICT, NOW)
    missing, unsigned = (reason.to_json() for reason in verdict.reasons)
    assert missing == {"code": "scan.missing", "message": verdict.reasons[0].message, "subject": IMAGE}
    assert unsigned == {"code": "signature.missing", "message": verdict.reasons[1].message}


def test_the_hash_of_the_facts_changes_with_every_fact_and_not_with_time() -> None:
    others = [
        but(signatures=()),
        but(approval=None),
        but(evidence=CLEAN[:2]),
        but(revoked=frozenset({IMAGE})),
        but(pushers=frozenset({"x"})),
        but(version_states=("live",)),
        but(tagged=True),
        but(trusted_keys=frozenset()),
        but(admitted_before=NOW),
        but(evidence=(replace(CLEAN[0], finished_at=NOW), *CLEAN[1:])),
    ]
    hashes = {evidence_hash(facts) for facts in (GOOD, *others)}
    assert len(hashes) == len(others) + 1
    assert (
        decide(GOOD, STRICT, NOW).evidence_hash == decide(GOOD, SCANNED, NOW + DAY).evidence_hash == evidence_hash(GOOD)
    )
