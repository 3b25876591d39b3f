"""May this root leave now, and who must be told when facts change? Decides, stores and invalidates verdicts.

Everything that changes a fact calls one of the `recompute_*` functions in its own transaction. Deciding is safe under
concurrency: see gates/queries.py for the locks. All functions that decide need a transaction, not an autocommit
connection; only `fresh_verdict` reads.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from berth.db import queue
from berth.errors import InvalidInput, ManifestUnknown, NotFound
from berth.gates import queries
from berth.gates.decide import FOREVER, Facts, Reason, Verdict, decide, evidence_hash
from berth.gates.facts import FIRST_ADMISSION, collect, first_admission
from berth.gates.facts import load_facts as load_facts
from berth.gates.policies import from_json, policy_hash, to_json
from berth.gates.queries import AsyncConnection, VerdictRow

# So many verdicts are decided where the facts change; the rest is marked and decided on read.
INLINE: Final = 50


async def decide_now(conn: AsyncConnection, *, repository_id: int, root: str, now: datetime) -> Verdict:
    """Decide about a root from the newest committed facts and store the verdict.

    Raises:
        ManifestUnknown: the repository does not hold that root.
        SetupError: `conn` is not in a transaction.
    """
    await queries.require_transaction(conn)
    await queries.share_closure(conn, repository_id, root)
    return await _decide(conn, repository_id, root, now)


async def fresh_verdict(conn: AsyncConnection, repository_id: int, root: str, now: datetime) -> VerdictRow | None:
    """The stored verdict if it may be served as it is, else None: then call `verdict_of` in a transaction.

    Reads with one query on any connection.
    """
    row = await queries.stored_verdict(conn, repository_id, root, now=now)
    return row if row is not None and row.fresh else None


async def verdict_of(conn: AsyncConnection, repository_id: int, root: str, now: datetime) -> VerdictRow:
    """The verdict that holds at `now`: the stored one while nothing it rests on changed, else decided again.

    Raises: as `decide_now`.
    """
    row = await fresh_verdict(conn, repository_id, root, now)
    if row is None:
        await decide_now(conn, repository_id=repository_id, root=root, now=now)
        row = await queries.stored_verdict(conn, repository_id, root, now=now)
    if row is None:
        raise ManifestUnknown(f"{root} is not in this repository.")
    return row


async def recompute_root(conn: AsyncConnection, *, repository_id: int, root: str, now: datetime) -> None:
    """Decide again about one root, if the repository holds it; facts about the root itself have changed."""
    await queries.require_transaction(conn)
    await queries.mark_root(conn, repository_id, root)
    for place in await queries.newest_roots_with(conn, root, repository_id=repository_id, limit=INLINE):
        if place[1] == root:
            await _decide(conn, *place, now)


async def recompute_for_digest(
    conn: AsyncConnection, digest: str, now: datetime, *, repository_id: int | None = None
) -> None:
    """Facts about a manifest have changed: decide again about every root that holds it, anywhere or in one repository.

    The caller must have called `hold_digest` before it wrote those facts.
    """
    await queries.require_transaction(conn)
    await queries.mark_digest(conn, digest, repository_id=repository_id)
    for place in await queries.newest_roots_with(conn, digest, repository_id=repository_id, limit=INLINE):
        await _decide(conn, *place, now)


async def recompute_for_repository(conn: AsyncConnection, repository_id: int, now: datetime) -> None:
    """Decide again about everything in a repository: the newest versions at once, the others on read."""
    await queries.require_transaction(conn)
    newest = await queries.newest_roots_in(conn, repository_id=repository_id, limit=INLINE)
    await queries.mark_repositories(conn, repository_id=repository_id, besides=newest)
    for place in newest:
        await _decide_if_held(conn, *place, now)


async def recompute_for_project(conn: AsyncConnection, project_id: int, now: datetime) -> None:
    """Decide again about everything in a project: the newest versions at once, the others on read."""
    await queries.require_transaction(conn)
    newest = await queries.newest_roots_in(conn, project_id=project_id, limit=INLINE)
    await queries.mark_repositories(conn, project_id=project_id, besides=newest)
    for place in newest:
        await _decide_if_held(conn, *place, now)


async def hold_digest(conn: AsyncConnection, digest: str, *, repository_id: int | None = None) -> None:
    """Announce a change of facts about a manifest, before writing it: nobody decides without seeing it afterwards.

    Give the repository when the facts are about one; its row is locked first, as a push does.
    """
    await queries.require_transaction(conn)
    if repository_id is not None:
        await queries.hold_repository(conn, repository_id)
    await queries.lock_digest(conn, digest)


async def set_policy(conn: AsyncConnection, project_id: int, policy_json: object, *, now: datetime) -> dict[str, Any]:
    """Give a project another policy; returns it in its shortest form.

    Raises:
        InvalidInput: the policy is not valid.
        NotFound: there is no such project.
    """
    policy = from_json(policy_json)
    document = to_json(policy)
    if not await queries.write_policy(conn, project_id, policy=document, policy_hash=policy_hash(policy)):
        raise NotFound("There is no such project.")
    await recompute_for_project(conn, project_id, now)
    return document


async def _decide_if_held(conn: AsyncConnection, repository_id: int, root: str, now: datetime) -> None:
    # The manifest of a deleted version may be gone while its number stays.
    if await queries.holds(conn, repository_id, root):
        await _decide(conn, repository_id, root, now)


async def _decide(conn: AsyncConnection, repository_id: int, root: str, now: datetime) -> Verdict:
    scope = await queries.scope_of(conn, repository_id)
    if scope is None or not await queries.holds(conn, repository_id, root):
        raise ManifestUnknown(f"{root} is not in this repository.")
    stored = await queries.lock_verdict(conn, repository_id, root)
    # Only now: whoever held the row before has committed, and these statements see what it wrote.
    scope = await queries.scope_of(conn, repository_id)
    facts = await collect(conn, scope, root, stored=stored) if scope is not None else None
    if scope is None or facts is None:
        raise ManifestUnknown(f"{root} is not in this repository.")
    before = await queries.outcome_before(conn, repository_id, root)
    verdict, counts = _judge(facts, scope.policy, now)
    first = first_admission(stored)
    if first is None and verdict.admitted and counts:
        first = now
    reasons: list[dict[str, str]] = [reason.to_json() for reason in verdict.reasons]
    if first is not None:
        at = first.isoformat()
        reasons.append({"code": FIRST_ADMISSION, "message": f"First admitted here at {at}.", "at": at})
    await queries.write_verdict(
        conn,
        VerdictRow(
            repository_id=repository_id,
            root=root,
            admitted=verdict.admitted,
            valid_until=verdict.valid_until,
            reasons=reasons,
            policy_hash=scope.policy_hash,
            trust_hash=scope.trust_hash,
            evidence_hash=verdict.evidence_hash,
            decided_at=now,
            fresh=True,
        ),
    )
    await _send_on(conn, repository_id, root, verdict, before=before)
    return verdict


async def _send_on(
    conn: AsyncConnection, repository_id: int, root: str, verdict: Verdict, *, before: tuple[bool, str]
) -> None:
    """Other registries follow: what is admitted goes there, with new evidence too; what turns to deny is withdrawn."""
    was_admitted, evidence = before
    if verdict.admitted == was_admitted and (not was_admitted or verdict.evidence_hash == evidence):
        return
    if await queries.lives_elsewhere(conn, repository_id, root):
        await queue.follow(conn, repository_id, root, admitted=verdict.admitted)


def _judge(facts: Facts, policy_json: object, now: datetime) -> tuple[Verdict, bool]:
    """The verdict, and whether an admission by it counts as one on evidence."""
    try:
        policy = from_json(policy_json)
    except InvalidInput as error:
        reason = Reason("policy.invalid", f"The project's policy cannot be read ({error.message}); set it again.")
        return Verdict(False, FOREVER, (reason,), evidence_hash(facts)), False
    return decide(facts, policy, now), not policy.admit_everything
