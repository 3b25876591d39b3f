"""What holds for every verdict, whatever the facts (design §6 "Verdict"): fails closed, exact in time, unspoiled."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from berth.gates.decide import FOREVER, Evidence, Facts, Finding, Findings, Node, Problem, Signature, decide
from berth.gates.policies import Policy, from_json
from tests.unit.gates.made import (
    ATTESTATION,
    CHECKPOINT,
    CLEAN,
    GOOD,
    IMAGE,
    KEY,
    NOW,
    OPEN,
    OTHER_KEY,
    ROOT,
    TICK,
    TREE,
    approval,
    digest,
)

EXTRA = digest("e")
ages = st.integers(min_value=-3 * 24, max_value=80 * 24).map(lambda hours: timedelta(hours=hours))
findings = st.builds(
    Findings,
    vulnerabilities=st.lists(
        st.builds(Finding, st.sampled_from(["CRITICAL", "HIGH", "LOW"]), st.booleans(), st.integers(0, 2)), max_size=1
    ).map(tuple),
    malicious=st.sampled_from([(), (), (), ("os.system",)]),
    problems=st.sampled_from([(), (), (), (Problem("layer.diff_id", "x"),), (Problem("os.end_of_life", "x"),)]),
    no_packages=st.booleans(),
)
mostly_clean = st.one_of(st.just(Findings()), st.just(Findings()), st.none(), findings)


@st.composite
def reports(draw: st.DrawFn, subject: str, kind: Any) -> list[Evidence]:
    """The history of one leaf, oldest first; usually clean."""
    drawn = sorted(draw(st.lists(ages, max_size=3)), reverse=True)
    return [
        Evidence(
            digest=subject,
            kind=kind,
            status=draw(st.sampled_from(["ok", "ok", "ok", "ok", "failed", "inconclusive", "odd"])),
            finished_at=NOW - age,
            findings=draw(mostly_clean),
            database_updated_at=draw(st.sampled_from([None, None, NOW - age - timedelta(days=3)])),
        )
        for age in drawn
    ]


signatures = st.builds(
    Signature,
    key_id=st.sampled_from([KEY, KEY, OTHER_KEY, None]),
    verdict=st.sampled_from(["valid", "valid", "invalid", "untrusted", "unsupported"]),
    kind=st.sampled_from(["cosign-classic", "sigstore-bundle", "notation", "attestation"]),
)
untrusted = st.builds(
    Signature,
    key_id=st.sampled_from([OTHER_KEY, None]),
    verdict=st.sampled_from(["invalid", "untrusted", "unsupported"]),
    kind=st.sampled_from(["cosign-classic", "sigstore-bundle", "notation", "attestation"]),
)
responses = st.one_of(
    st.sampled_from(["block", "warn"]), st.builds(lambda days: {"grace_days": days}, st.integers(1, 40))
)


@st.composite
def facts_of(draw: st.DrawFn) -> Facts:
    evidence: list[Evidence] = []
    for clean in CLEAN:
        drawn = draw(reports(clean.digest, clean.kind))
        evidence += drawn if draw(st.booleans()) else [clean]
    tree = draw(st.sampled_from([TREE, TREE, TREE, TREE[:2], (*TREE, Node(ATTESTATION, "attestation"))]))
    return replace(
        GOOD,
        tree=tree,
        evidence=tuple(evidence),
        signatures=tuple(draw(st.lists(signatures, max_size=4))),
        trusted_keys=draw(
            st.sampled_from([frozenset({KEY}), frozenset({KEY}), frozenset[str](), frozenset({KEY, "3"})])
        ),
        approval=draw(st.sampled_from([approval(), approval(), approval("rejected"), approval("revoked"), None])),
        pushers=draw(st.sampled_from([frozenset({"dana"}), frozenset({"rita"}), frozenset[str]()])),
        revoked=draw(st.sampled_from([frozenset[str](), frozenset[str](), frozenset({IMAGE})])),
        version_states=draw(st.sampled_from([("received",), ("live",), (), ("deleted",), ("archived", "deleted")])),
        admitted_before=draw(st.one_of(st.none(), ages.map(lambda age: NOW - age))),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    return from_json(
        {
            "preset": draw(st.sampled_from(["scanned", "strict"])),
            "only_fixable": draw(st.booleans()),
            "max_report_age_days": draw(st.integers(1, 60)),
            "required_signatures": draw(st.integers(0, 2)),
            "four_eyes": draw(st.booleans()),
            "allow_no_packages": draw(st.booleans()),
            "on_new_finding": draw(responses),
            "on_stale_report": draw(responses),
        }
    )


def strong(facts: Facts) -> Facts:
    """As drawn, but what this property is not about no longer stands in the way of an admission."""
    return replace(facts, revoked=frozenset(), version_states=("live",), tree=TREE, approval=approval())


@given(facts_of(), policies())
def test_at_valid_until_less_a_moment_the_answer_is_the_same(facts: Facts, policy: Policy) -> None:
    verdict = decide(facts, policy, NOW)
    assert verdict.valid_until > NOW
    assert decide(facts, policy, verdict.valid_until - TICK) == verdict


@given(facts_of(), policies(), st.integers(0, 5000))
def test_no_instant_before_valid_until_gives_another_answer(facts: Facts, policy: Policy, hours: int) -> None:
    verdict = decide(facts, policy, NOW)
    later = NOW + timedelta(hours=hours)
    assume(later < verdict.valid_until)
    assert decide(facts, policy, later) == verdict


@given(facts_of(), policies())
def test_forever_means_that_no_later_instant_gives_another_answer(facts: Facts, policy: Policy) -> None:
    verdict = decide(facts, policy, NOW)
    assume(verdict.valid_until == FOREVER)
    assert decide(facts, policy, FOREVER) == verdict


@given(facts_of(), policies())
def test_losing_the_reports_of_a_leaf_never_admits(facts: Facts, policy: Policy) -> None:
    for subject, kind in {(item.digest, item.kind) for item in facts.evidence}:
        rest = tuple(item for item in facts.evidence if (item.digest, item.kind) != (subject, kind))
        assert not decide(replace(facts, evidence=rest), policy, NOW).admitted


@given(facts_of(), policies())
def test_losing_anything_else_never_turns_deny_into_allow(facts: Facts, policy: Policy) -> None:
    if decide(facts, policy, NOW).admitted:
        return
    poorer = [
        replace(facts, signatures=facts.signatures[:n] + facts.signatures[n + 1 :])
        for n in range(len(facts.signatures))
    ]
    poorer += [replace(facts, trusted_keys=facts.trusted_keys - {key}) for key in facts.trusted_keys]
    poorer += [
        replace(facts, tree=tuple(node for node in facts.tree if node.digest != gone)) for gone in (ROOT, CHECKPOINT)
    ]
    poorer += [replace(facts, pushers=frozenset()), replace(facts, admitted_before=None)]
    if facts.approval is not None and facts.approval.decision == "approved":
        poorer.append(replace(facts, approval=None))
    poorer += [
        replace(facts, evidence=tuple(replace(item, findings=None) if item is odd else item for item in facts.evidence))
        for odd in {(item.digest, item.kind): item for item in facts.evidence}.values()
    ]
    for less in poorer:
        assert not decide(less, policy, NOW).admitted


@given(facts_of(), policies(), st.sampled_from(["unknown", "evidence", "", "helm", "Image"]))
def test_an_unknown_child_is_never_admitted(facts: Facts, policy: Policy, role: str) -> None:
    root = replace(TREE[0], children=(*TREE[0].children, EXTRA))
    facts = replace(facts, tree=(root, *TREE[1:], Node(EXTRA, role)))
    assert not decide(facts, policy, NOW).admitted


@given(facts_of(), policies(), st.sampled_from(["image", "checkpoint", "attestation"]))
def test_a_child_without_reports_is_never_admitted(facts: Facts, policy: Policy, role: str) -> None:
    facts = replace(facts, tree=(*facts.tree, Node(EXTRA, role)))
    assert not decide(facts, policy, NOW).admitted


@given(facts_of(), policies(), st.integers(0, 2))
def test_a_problem_with_any_node_is_never_admitted(facts: Facts, policy: Policy, place: int) -> None:
    nodes = list(TREE)
    nodes[place] = replace(nodes[place], problems=(Problem("content.unreadable", "x"),))
    assert not decide(replace(facts, tree=tuple(nodes)), policy, NOW).admitted


@given(facts_of(), policies(), st.randoms(use_true_random=False))
def test_the_order_of_signatures_means_nothing(facts: Facts, policy: Policy, random: Any) -> None:
    shuffled = list(facts.signatures)
    random.shuffle(shuffled)
    assert decide(replace(facts, signatures=tuple(shuffled)), policy, NOW) == decide(facts, policy, NOW)


@given(facts_of(), policies(), st.lists(untrusted, max_size=4), st.integers(0, 4))
def test_untrusted_signatures_never_change_an_admission(
    facts: Facts, policy: Policy, strangers: list[Signature], place: int
) -> None:
    facts = strong(facts)
    more = (*facts.signatures[:place], *strangers, *facts.signatures[place:])
    assert decide(replace(facts, signatures=more), policy, NOW).admitted == decide(facts, policy, NOW).admitted


@given(facts_of(), policies())
def test_nothing_is_admitted_that_a_person_refused(facts: Facts, policy: Policy) -> None:
    for decision in ("rejected", "revoked", "?"):
        assert not decide(replace(facts, approval=approval(decision)), policy, NOW).admitted
    assert not decide(replace(facts, revoked=frozenset({IMAGE}), tree=TREE), policy, NOW).admitted


@given(facts_of())
def test_open_admits_whatever_no_person_refused(facts: Facts) -> None:
    facts = replace(facts, approval=None, revoked=frozenset(), version_states=())
    verdict = decide(facts, OPEN, NOW)
    assert verdict.admitted
    assert verdict.valid_until == FOREVER


@given(facts_of(), policies())
def test_strict_admits_nothing_that_scanned_denies(facts: Facts, policy: Policy) -> None:
    laxer = replace(policy, required_signatures=0, require_approval=False)
    if decide(facts, policy, NOW).admitted:
        assert decide(facts, laxer, NOW).admitted


@given(facts_of(), policies())
def test_reasons_are_never_empty_and_admissions_are_possible(facts: Facts, policy: Policy) -> None:
    assert decide(facts, policy, NOW).reasons
    clean = replace(GOOD, signatures=(Signature(KEY, "valid", "cosign-classic"),), pushers=frozenset({"dana"}))
    assert decide(
        clean, replace(policy, required_signatures=min(policy.required_signatures, 1), max_report_age_days=30), NOW
    ).admitted
