"""What did our jobs and our people find out? Records scans and decisions, and says which scans are still awaited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from berth.adapters.scanners.contract import ScanResult
from berth.adapters.stores.contract import StoredBlob
from berth.catalog.record import attach_report
from berth.errors import InvalidInput, ManifestUnknown
from berth.gates import queries
from berth.gates.decide import NEEDS
from berth.gates.policies import from_json
from berth.gates.queries import AsyncConnection
from berth.gates.verdicts import hold_digest, recompute_for_digest
from berth.oci import media_types

ScanState = Literal["pending", "ok", "inconclusive", "failed"]
DECISIONS: Final = ("approved", "rejected", "revoked")
_ARTIFACT_TYPES: Final[Mapping[str, str]] = {
    "vulnerabilities": media_types.REPORT_TRIVY,
    "weights": media_types.REPORT_WEIGHTS,
}
_LOG_LIMIT: Final = 256 * 1024


async def record_scan(
    conn: AsyncConnection, *, digest: str, result: ScanResult, report: StoredBlob | None, now: datetime
) -> int:
    """Keep one scan of one leaf, attach its report wherever that leaf is, and decide again; returns the evidence's id.

    Args:
        digest: the manifest that was scanned.
        report: where `result.report` was stored (`store.put_bytes`) before this transaction; None if there is none.
    """
    attached: str | None = None
    if report is not None:
        attached = await attach_report(
            conn,
            subject_digest=digest,
            artifact_type=_ARTIFACT_TYPES[result.kind],
            report=report,
            report_media_type=result.report_media_type,
            annotations=_annotations(result.finished_at, result.tool, result.tool_version, result.status),
        )
    values: dict[str, Any] = {
        "digest": digest,
        "kind": result.kind,
        "status": result.status,
        "summary": result.summary.to_json(),
        "tool": result.tool,
        "tool_version": result.tool_version,
        "database": dict(result.database),
        "report": attached,
        "report_media_type": result.report_media_type if attached else None,
        "log": result.log[:_LOG_LIMIT].replace("\0", ""),
        "started_at": result.started_at,
        "finished_at": result.finished_at,
    }
    # After the report: attaching it locks repositories, which a push holds before it waits for digests.
    await hold_digest(conn, digest)
    number = await queries.insert_evidence(conn, values)
    await recompute_for_digest(conn, digest, now)
    return number


def _annotations(finished_at: datetime, tool: str, tool_version: str, status: str) -> dict[str, str]:
    return {
        "org.opencontainers.image.created": finished_at.isoformat(),
        "berth.scan.tool": f"{tool} {tool_version}".strip(),
        "berth.scan.status": status,
    }


async def share_reports(conn: AsyncConnection, *, repository_id: int, digests: Sequence[str]) -> None:
    """Attach the reports that leaves already have elsewhere to a repository that has just received these leaves."""
    for row in await queries.reports_kept(conn, digests):
        await attach_report(
            conn,
            subject_digest=row["digest"],
            artifact_type=_ARTIFACT_TYPES[row["kind"]],
            report=StoredBlob(row["report"], row["report_size"], row["location"]),
            report_media_type=row["report_media_type"],
            annotations=_annotations(row["finished_at"], row["tool"], row["tool_version"], row["status"]),
            only=repository_id,
        )


async def decide_approval(
    conn: AsyncConnection,
    *,
    repository_id: int,
    digest: str,
    decision: str,
    principal: str,
    note: str,
    now: datetime,
) -> None:
    """Record what a person decided about a manifest of a repository, and decide again about all that holds it there.

    Args:
        decision: approved | rejected | revoked.

    Raises:
        InvalidInput: another decision, or nobody decided.
        ManifestUnknown: the repository does not hold that manifest.
    """
    if decision not in DECISIONS:
        raise InvalidInput(f"A decision is {', '.join(DECISIONS)}, not {decision!r}.")
    if not principal:
        raise InvalidInput("A decision needs the name of the person who takes it.")
    await hold_digest(conn, digest, repository_id=repository_id)
    if await queries.pusher_of(conn, repository_id, digest) is None:
        raise ManifestUnknown(f"{digest} is not in this repository.")
    values = {
        "repository_id": repository_id,
        "digest": digest,
        "decision": decision,
        "principal": principal,
        "note": note,
        "decided_at": now,
    }
    await queries.insert_decision(conn, values, version_approval=decision)
    await recompute_for_digest(conn, digest, now, repository_id=repository_id)


async def scans_of(
    conn: AsyncConnection, repository_id: int, root: str, now: datetime
) -> list[tuple[str, str, ScanState]]:
    """(digest, kind, state) of every scan that the leaves of a root have, await, or need by the project's policy.

    `pending`: a scan is waiting or running, or the policy needs one and there is no report yet.
    """
    scope = await queries.scope_of(conn, repository_id)
    if scope is None:
        return []
    rows = await queries.tree_of(conn, repository_id, root)
    known, awaited = await queries.scan_states(conn, [row.digest for row in rows], now=now)
    required = _required(scope.policy)
    states: list[tuple[str, str, ScanState]] = []
    for row in rows:
        for kind in NEEDS.get(row.role or "", ()):
            place = (row.digest, kind)
            if place in awaited or (place not in known and required[kind]):
                states.append((*place, "pending"))
            elif place in known:
                states.append((*place, _state(known[place])))
    return states


def _required(policy_json: object) -> dict[str, bool]:
    try:
        policy = from_json(policy_json)
    except InvalidInput:
        return {"vulnerabilities": True, "weights": True}
    wanted = not policy.admit_everything
    return {
        "vulnerabilities": wanted and policy.require_vulnerability_scan,
        "weights": wanted and policy.require_weight_scan,
    }


def _state(status: str) -> ScanState:
    if status == "ok":
        return "ok"
    return "inconclusive" if status == "inconclusive" else "failed"
