"""May this version leave? Pure: facts, policy and now in, one verdict with reasons out (design §6 "Verdict").

Fails closed: whatever is missing, odd or undecodable is a reason to deny. Evidence belongs to leaves, the verdict to
the root; it is the AND over every manifest below the root. Adding a condition = one function and one line in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from berth.gates.policies import Policy, Response, canonical_hash

# "Time alone never changes this answer". Not datetime.max: it must survive a round trip through any time zone.
FOREVER: Final = datetime(9999, 1, 1, tzinfo=UTC)
# Clocks of scanner hosts may run ahead by this much; a report from further ahead would never grow old.
CLOCK_TOLERANCE: Final = timedelta(hours=1)

Kind = Literal["vulnerabilities", "weights"]

# What each kind of leaf must be scanned for. An index is judged by its children.
NEEDS: Final[dict[str, tuple[Kind, ...]]] = {
    "image": ("vulnerabilities", "weights"),
    "checkpoint": ("weights",),
    "attestation": ("weights",),
}
COUNTED_SIGNATURES: Final = frozenset({"cosign-classic", "sigstore-bundle", "notation"})
_FAMILY: Final[dict[str, str]] = {"vulnerabilities": "scan", "weights": "weights"}
_NAME: Final[dict[str, str]] = {"vulnerabilities": "vulnerability scan", "weights": "weight scan"}

# Problems that make even a finished scan worthless: an operating system whose package list was removed hides them all.
BLIND: Final = frozenset({"os.no_packages"})

# Worst first: this is the order in which reasons to deny are shown.
CODES: Final = (
    "policy.invalid",
    "weights.malicious",
    "approval.revoked",
    "child.revoked",
    "approval.rejected",
    "version.deleted",
    "version.archived",
    "scan.vulnerable",
    "content.foreign_layer",
    "content.unreadable",
    "content.unknown",
    "weights.failed",
    "weights.inconclusive",
    "scan.failed",
    "scan.inconclusive",
    "weights.stale",
    "scan.stale",
    "weights.missing",
    "scan.missing",
    "signature.untrusted",
    "signature.missing",
    "approval.four_eyes",
    "approval.missing",
)


@dataclass(frozen=True)
class Problem:
    """Something that could not be looked at, with a stable dotted code."""

    code: str
    message: str


@dataclass(frozen=True)
class Node:
    """One manifest below the root (or the root itself). `children`: digests that an index names."""

    digest: str
    role: str
    platform: str | None = None
    children: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Finding:
    """So many vulnerabilities of one severity, with or without a fixed version."""

    severity: str
    fixable: bool
    count: int


@dataclass(frozen=True)
class Findings:
    """What a report says. `no_packages`: neither an operating system nor any package was recognised."""

    vulnerabilities: tuple[Finding, ...] = ()
    malicious: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    no_packages: bool = False


@dataclass(frozen=True)
class Evidence:
    """One report of our own jobs about one leaf. `findings` None: its summary could not be understood."""

    digest: str
    kind: Kind
    status: str
    finished_at: datetime
    findings: Findings | None
    database_updated_at: datetime | None = None


@dataclass(frozen=True)
class Signature:
    """One signature found on the root, and how checking it went."""

    key_id: str | None
    verdict: str
    kind: str
    reason: str = ""


@dataclass(frozen=True)
class Approval:
    """The latest decision of a person about the root in this repository."""

    decision: str
    principal: str
    at: datetime


@dataclass(frozen=True)
class Facts:
    """Everything a verdict depends on, except policy and time.

    Attributes:
        repository: 'project/name'.
        root: digest the verdict is about.
        tree: every content manifest in the root's closure, the root included.
        evidence: reports about leaves, oldest first; the last one per leaf and kind counts, earlier ones only tell
            since when a finding is known.
        signatures: signatures on the root.
        trusted_keys: ids of the keys that the project trusts for signatures at this moment.
        approval: latest decision about the root.
        pushers: everyone who pushed the root to this repository.
        revoked: digests whose latest decision in this repository is rejected or revoked.
        version_states: existence of every version that has this digest.
        tagged: a tag that belongs to none of these versions also names the root.
        admitted_before: when the root was first admitted here on evidence.
    """

    repository: str
    root: str
    tree: tuple[Node, ...]
    evidence: tuple[Evidence, ...] = ()
    signatures: tuple[Signature, ...] = ()
    trusted_keys: frozenset[str] = frozenset()
    approval: Approval | None = None
    pushers: frozenset[str] = frozenset()
    revoked: frozenset[str] = frozenset()
    version_states: tuple[str, ...] = ()
    tagged: bool = False
    admitted_before: datetime | None = None


@dataclass(frozen=True)
class Reason:
    """Why. `subject` is the digest it is about when that is not the root."""

    code: str
    message: str
    subject: str | None = None

    def to_json(self) -> dict[str, str]:
        document = {"code": self.code, "message": self.message}
        return document if self.subject is None else {**document, "subject": self.subject}


@dataclass(frozen=True)
class Verdict:
    """The answer. Admitted: what it rests on. Denied: every reason, worst first, each with the next step.

    `valid_until` is the first instant at which time alone could change answer or reasons.
    """

    admitted: bool
    valid_until: datetime
    reasons: tuple[Reason, ...]
    evidence_hash: str


Given = tuple[Facts, Policy, datetime]


@dataclass
class _Said:
    """What the rules have said so far."""

    denials: list[Reason] = field(default_factory=list)
    notes: list[Reason] = field(default_factory=list)
    changes: list[datetime] = field(default_factory=list)

    def deny(self, code: str, message: str, subject: str | None = None) -> None:
        self.denials.append(Reason(code, message, subject))

    def note(self, code: str, message: str, subject: str | None = None) -> None:
        self.notes.append(Reason(code, message, subject))


def decide(facts: Facts, policy: Policy, now: datetime) -> Verdict:
    """Say whether `facts.root` may be pulled from its repository at `now` (with a time zone)."""
    said = _Said()
    for rule in HUMAN_RULES if policy.admit_everything else RULES:
        rule(facts, policy, now, said)
    if policy.admit_everything:
        said.note("policy.open", "This project's policy admits everything; nothing was asked of this content.")
    return Verdict(
        admitted=not said.denials,
        valid_until=min((at for at in said.changes if at > now), default=FOREVER),
        reasons=_sorted(said.denials) if said.denials else tuple(said.notes),
        evidence_hash=evidence_hash(facts),
    )


def evidence_hash(facts: Facts) -> str:
    """Hex SHA-256 over all facts; the order in which signatures were found does not matter."""
    document = asdict(facts)
    document["signatures"] = sorted(canonical_hash(item) for item in document["signatures"])
    return canonical_hash(_plain(document))


def version_state(facts: Facts, policy: Policy, now: datetime, said: _Said) -> None:
    """A deleted or archived version stays away, unless the same bytes are also here under another name."""
    states = set(facts.version_states)
    if not states or facts.tagged or states & {"received", "live"}:
        return
    if "archived" in states:
        said.deny("version.archived", f"{facts.repository}@{facts.root} is archived; restore it first.")
    else:
        said.deny("version.deleted", f"{facts.repository}@{facts.root} was deleted; push it again to get it back.")


def decision_of_people(facts: Facts, policy: Policy, now: datetime, said: _Said) -> None:
    """Rejecting or revoking is final under every policy, for the root and for everything it holds."""
    again = f"a reviewer can change that with: xumi approve {facts.repository}@{facts.root}"
    if facts.approval is not None and facts.approval.decision == "rejected":
        said.deny("approval.rejected", f"{facts.approval.principal} rejected this version; {again}")
    elif facts.approval is not None and facts.approval.decision != "approved":
        said.deny("approval.revoked", f"{facts.approval.principal} revoked the approval of this version; {again}")
    for node in facts.tree:
        if node.digest in facts.revoked and node.digest != facts.root:
            said.deny(
                "child.revoked",
                f"{_called(node)}, which this version holds, was rejected or revoked; push a version without it.",
                node.digest,
            )


def content(facts: Facts, policy: Policy, now: datetime, said: _Said) -> None:
    """Everything below the root is here, is of a kind we can judge, and keeps all its bytes with us."""
    known = {node.digest for node in facts.tree}
    if facts.root not in known:
        said.deny("content.unreadable", "The manifest of this version cannot be read; push it again.", facts.root)
    for node in facts.tree:
        for problem in node.problems:
            said.deny(_content_code(problem.code), f"{_called(node)}: {problem.message}", node.digest)
        if node.role == "index":
            _index(node, known, said)
        elif node.role not in NEEDS:
            said.deny(
                "content.unknown",
                f"{_called(node)} is neither an image nor a checkpoint, so nothing here can judge it; "
                "push the version without it.",
                node.digest,
            )
    if not any(node.role in ("image", "checkpoint") for node in facts.tree):
        said.deny("content.unknown", "This version holds no image and no checkpoint; push one that does.", facts.root)


def _index(node: Node, known: set[str], said: _Said) -> None:
    if not node.children:
        said.deny("content.unknown", f"{_called(node)} is an empty index; push it with its images.", node.digest)
    for child in node.children:
        if child not in known:
            said.deny(
                "content.unreadable",
                f"{_called(node)} names {child}, which is not in this repository; push that manifest too.",
                child,
            )


def scans(facts: Facts, policy: Policy, now: datetime, said: _Said) -> None:
    """Every leaf has a usable, recent report of each kind it needs, and none of them finds what the policy denies."""
    required = {"vulnerabilities": policy.require_vulnerability_scan, "weights": policy.require_weight_scan}
    for kind, wanted in required.items():
        if not wanted:
            said.note(f"{_FAMILY[kind]}.not_required", f"The policy asks for no {_NAME[kind]}.")
    roles = list(NEEDS)
    for node in sorted((n for n in facts.tree if n.role in NEEDS), key=lambda n: (roles.index(n.role), n.digest)):
        for kind in NEEDS[node.role]:
            if required[kind]:
                reports = [item for item in facts.evidence if item.digest == node.digest and item.kind == kind]
                if reports:
                    _report(node, reports, (facts, policy, now), said)
                else:
                    said.deny(
                        f"{_FAMILY[kind]}.missing",
                        f"{_called(node)} has no {_NAME[kind]} yet; wait for it, or start one with: "
                        f"xumi scan {facts.repository}@{facts.root}",
                        node.digest,
                    )


def _report(node: Node, reports: list[Evidence], given: Given, said: _Said) -> None:
    facts, policy, now = given
    latest, before = reports[-1], len(said.denials)
    family, name = _FAMILY[latest.kind], f"the {_NAME[latest.kind]} of {_called(node)}"
    rescan = f"scan again with: xumi scan {facts.repository}@{facts.root}"
    if latest.status == "failed":
        said.deny(f"{family}.failed", f"{name} failed; read its log, then {rescan}", node.digest)
    elif not _conclusive(latest, policy):
        why = "; ".join(problem.message for problem in latest.findings.problems) if latest.findings else "odd summary"
        said.deny(f"{family}.inconclusive", f"{name} came to no result ({why}); {rescan}", node.digest)
    elif latest.finished_at - CLOCK_TOLERANCE > now:
        said.changes.append(latest.finished_at - CLOCK_TOLERANCE)
        said.deny(
            f"{family}.inconclusive", f"{name} is dated in the future; set the clocks, then {rescan}", node.digest
        )
    else:
        _age(node, latest, given, said)
    # Also a scan that did not get to its end may have found something; then it is worse than inconclusive.
    for problem in latest.findings.problems if latest.findings else ():
        if problem.code.startswith("layer."):
            said.deny(_content_code(problem.code), f"{_called(node)}: {problem.message}", node.digest)
    if latest.kind == "weights" and latest.findings and latest.findings.malicious:
        found = ", ".join(latest.findings.malicious[:5])
        said.deny("weights.malicious", f"{_called(node)} holds malicious content: {found}; remove it.", node.digest)
    if latest.kind == "vulnerabilities":
        _vulnerable(node, reports, given, said)
    if len(said.denials) == before:
        said.note(f"{family}.ok", f"{name} of {_day(latest.finished_at)} finds nothing that denies.", node.digest)


def _age(node: Node, latest: Evidence, given: Given, said: _Said) -> None:
    """A report knows no more than its database did, so the older of the two dates counts."""
    facts, policy, now = given
    known = min(latest.finished_at, latest.database_updated_at or latest.finished_at)
    stale_at = known + timedelta(days=policy.max_report_age_days)
    if now < stale_at:
        said.changes.append(stale_at)
        return
    family = _FAMILY[latest.kind]
    message = (
        f"what the {_NAME[latest.kind]} of {_called(node)} knows is from {_day(known)}, older than "
        f"{policy.max_report_age_days} days"
    )
    if _spared(policy.on_stale_report, stale_at, given, said):
        said.note(f"{family}.stale", f"{message}; it was admitted before and the policy grants time.", node.digest)
    else:
        again = f"scan again with: xumi scan {facts.repository}@{facts.root}"
        said.deny(f"{family}.stale", f"{message}; {again}", node.digest)


def _vulnerable(node: Node, reports: list[Evidence], given: Given, said: _Said) -> None:
    _, policy, _ = given
    found = _denied(reports[-1], policy)
    if not found:
        return
    kinds = "fixable " if policy.only_fixable else ""
    counts = ", ".join(f"{found[name]} {name}" for name in policy.deny_severities if name in found)
    message = f"{_called(node)} has {kinds}vulnerabilities: {counts}"
    since = _new_since(reports, policy)
    if since is not None and _spared(policy.on_new_finding, since, given, said):
        said.note("scan.vulnerable", f"{message}; found after it was admitted, the policy grants time.", node.digest)
    else:
        said.deny("scan.vulnerable", f"{message}; update the packages and push a new version.", node.digest)


def _denied(report: Evidence, policy: Policy) -> dict[str, int]:
    """Number of vulnerabilities that the policy denies, by severity."""
    found: dict[str, int] = {}
    for item in report.findings.vulnerabilities if report.findings else ():
        if item.count > 0 and item.severity in policy.deny_severities and (item.fixable or not policy.only_fixable):
            found[item.severity] = found.get(item.severity, 0) + item.count
    return found


def _new_since(reports: list[Evidence], policy: Policy) -> datetime | None:
    """Since when reports without interruption deny, or None if no clean report came before: then nothing is new."""
    since: datetime | None = None
    for report in reversed(reports):
        if _denied(report, policy):
            since = report.finished_at if since is None else min(since, report.finished_at)
        elif _conclusive(report, policy):
            return since
    return None


def _spared(response: Response, since: datetime, given: Given, said: _Said) -> bool:
    """True while the policy is patient with what arose at `since`, which must be after the first admission."""
    facts, _, now = given
    if facts.admitted_before is None or facts.admitted_before > since:
        return False
    if response.kind == "grace":
        deadline = since + timedelta(days=response.grace_days)
        said.changes.append(deadline)
        return now < deadline
    return response.kind == "warn"


def signed(facts: Facts, policy: Policy, now: datetime, said: _Said) -> None:
    """Enough distinct keys that the project trusts now have validly signed the root."""
    if policy.required_signatures == 0:
        said.note("signature.not_required", "The policy asks for no signature.")
        return
    counted = [item for item in facts.signatures if item.kind in COUNTED_SIGNATURES]
    keys = sorted(
        {
            item.key_id
            for item in counted
            if item.verdict == "valid" and item.key_id in facts.trusted_keys and item.key_id
        }
    )
    if len(keys) >= policy.required_signatures:
        said.note("signature.valid", f"Signed by trusted key {', '.join(keys)}.")
    elif counted and not keys:
        reasons = ", ".join(sorted({item.reason or item.verdict for item in counted}))
        said.deny(
            "signature.untrusted",
            f"None of its signatures is valid and by a trusted key ({reasons}); sign it with a trusted key: "
            f"xumi sign {facts.repository}@{facts.root}, or trust the signer: berth key trust",
        )
    else:
        said.deny(
            "signature.missing",
            f"It has {len(keys)} of {policy.required_signatures} signatures by distinct trusted keys; sign it with a "
            f"trusted key: xumi sign {facts.repository}@{facts.root}",
        )


def approved(facts: Facts, policy: Policy, now: datetime, said: _Said) -> None:
    """A person has approved the root; with four eyes, not the one who pushed it. Refusals: `decision_of_people`."""
    if not policy.require_approval:
        said.note("approval.not_required", "The policy asks for no approval.")
        return
    approval, how = facts.approval, f"xumi approve {facts.repository}@{facts.root}"
    if approval is None:
        said.deny("approval.missing", f"Nobody has approved it yet; ask a reviewer to run: {how}")
        return
    if approval.decision != "approved":
        return
    if policy.four_eyes and (not approval.principal or not facts.pushers or approval.principal in facts.pushers):
        said.deny(
            "approval.four_eyes",
            f"{approval.principal or 'Someone'} approved what they may have pushed themselves; ask another reviewer "
            f"to run: {how}",
        )
        return
    said.note("approval.approved", f"Approved by {approval.principal} on {_day(approval.at)}.")
    if not policy.four_eyes:
        said.note("four_eyes.off", "The policy lets people approve what they pushed themselves.")


Rule = Callable[[Facts, Policy, datetime, _Said], None]
HUMAN_RULES: Final[tuple[Rule, ...]] = (decision_of_people, version_state)
RULES: Final[tuple[Rule, ...]] = (*HUMAN_RULES, content, scans, signed, approved)


def _conclusive(report: Evidence, policy: Policy) -> bool:
    """The scanner could look; or found an empty image, said nothing else, and the policy accepts that."""
    if report.status == "ok":
        return report.findings is not None and not any(item.code in BLIND for item in report.findings.problems)
    empty = report.findings is not None and report.findings.no_packages
    return report.status == "inconclusive" and report.kind == "vulnerabilities" and empty and policy.allow_no_packages


def _content_code(code: str) -> str:
    return "content.foreign_layer" if "foreign" in code else "content.unreadable"


def _called(node: Node) -> str:
    where = f" for {node.platform}" if node.platform else ""
    return f"{node.role} {node.digest[:19]}{where}"


def _day(at: datetime) -> str:
    return at.astimezone(UTC).date().isoformat()


def _sorted(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    return tuple(sorted(reasons, key=lambda reason: (CODES.index(reason.code), reason.subject or "", reason.message)))


def _plain(item: Any) -> Any:
    if isinstance(item, dict):
        return {key: _plain(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_plain(value) for value in item]
    if isinstance(item, frozenset):
        return sorted(item)
    return item.astimezone(UTC).isoformat() if isinstance(item, datetime) else item
