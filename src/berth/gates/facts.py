"""What is known about a root? Rows in, `Facts` out; what cannot be read becomes a problem, never a gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from berth.errors import ManifestInvalid
from berth.gates import queries
from berth.gates.decide import Approval, Evidence, Facts, Node, Problem, Signature
from berth.gates.findings import read_instant, read_summary
from berth.gates.queries import AsyncConnection, ManifestRow, Scope
from berth.oci import manifest as manifests
from berth.oci.manifest import Manifest
from berth.oci.media_types import FOREIGN_LAYER_TYPES
from berth.oci.version import to_tag

# How far back reports are read to learn since when a finding is known. With none clean among them nothing is new.
HISTORY: Final = 200
# The note in a stored verdict that remembers the first admission; grace counts only for what was admitted before.
FIRST_ADMISSION: Final = "admitted.first"


async def load_facts(conn: AsyncConnection, repository_id: int, root: str) -> Facts | None:
    """Everything a verdict about this root depends on, or None when the repository does not hold it."""
    scope = await queries.scope_of(conn, repository_id)
    if scope is None:
        return None
    stored = await queries.reasons_of(conn, repository_id, root)
    return await collect(conn, scope, root, stored=stored)


async def collect(
    conn: AsyncConnection, scope: Scope, root: str, *, stored: Sequence[Mapping[str, Any]]
) -> Facts | None:
    """As `load_facts`, for a known repository; `stored`: reasons of the stored verdict."""
    rows = await queries.tree_of(conn, scope.repository_id, root)
    if not rows:
        return None
    decisions = await queries.decisions_in(conn, scope.repository_id, root)
    versions = await queries.versions_with(conn, scope.repository_id, root)
    pushers = {pushed_by for _, _, pushed_by in versions} | {await queries.pusher_of(conn, scope.repository_id, root)}
    tags = set(await queries.tags_of(conn, scope.repository_id, root))
    approval = decisions.get(root)
    return Facts(
        repository=scope.repository,
        root=root,
        tree=_tree(rows),
        evidence=tuple(
            _evidence(row) for row in await queries.reports_of(conn, scope.repository_id, root, history=HISTORY)
        ),
        signatures=tuple(
            Signature(key_id=row.key_id, verdict=row.verdict, kind=row.kind, reason=row.reason)
            for row in await queries.signatures_on(conn, scope.repository_id, root)
        ),
        trusted_keys=frozenset(
            key.key_id for key in await queries.keys_of(conn, scope.project_id) if "signature" in key.predicates
        ),
        approval=Approval(approval["decision"], approval["principal"], approval["decided_at"]) if approval else None,
        pushers=frozenset(name for name in pushers if name),
        revoked=frozenset(digest for digest, row in decisions.items() if row["decision"] != "approved"),
        version_states=tuple(sorted(state for _, state, _ in versions)),
        tagged=bool(tags - {to_tag(version) for version, _, _ in versions}),
        admitted_before=first_admission(stored),
    )


def first_admission(reasons: Sequence[Mapping[str, Any]]) -> datetime | None:
    """When the root was first admitted on evidence, as its stored verdict remembers it."""
    return next((read_instant(reason.get("at")) for reason in reasons if reason.get("code") == FIRST_ADMISSION), None)


def _tree(rows: Sequence[ManifestRow]) -> tuple[Node, ...]:
    parsed: dict[str, Manifest] = {}
    problems: dict[str, list[Problem]] = {row.digest: [] for row in rows}
    for row in rows:
        manifest = _parsed(row, problems[row.digest])
        if manifest is not None:
            parsed[row.digest] = manifest
    platforms = {
        child.digest: _platform(child.platform) for manifest in parsed.values() for child in manifest.children()
    }
    return tuple(
        Node(
            digest=row.digest,
            role=row.role or "unknown",
            platform=platforms.get(row.digest),
            children=tuple(child.digest for child in parsed[row.digest].children()) if row.digest in parsed else (),
            problems=tuple(problems[row.digest]),
        )
        for row in rows
    )


def _parsed(row: ManifestRow, problems: list[Problem]) -> Manifest | None:
    if row.body is None:
        problems.append(Problem("content.unreadable", "its manifest is not here; push it again."))
        return None
    try:
        manifest = manifests.parse(row.body, row.media_type)
    except ManifestInvalid as error:
        problems.append(Problem("content.unreadable", f"its manifest cannot be read ({error.message})"))
        return None
    if (manifest.kind == "index") != (row.role == "index"):
        problems.append(Problem("content.unreadable", f"it was recorded as {row.role} but its manifest is not one."))
    for descriptor in (*manifest.blobs(), *manifest.children()):
        if descriptor.media_type in FOREIGN_LAYER_TYPES or descriptor.urls:
            problems.append(
                Problem(
                    "content.foreign_layer",
                    f"{descriptor.digest} may be fetched from elsewhere, so nothing here can judge it; "
                    "rebuild it with that content as an ordinary layer.",
                )
            )
    return manifest


def _platform(platform: Mapping[str, Any] | None) -> str | None:
    if not platform:
        return None
    return "/".join(str(platform[name]) for name in ("os", "architecture", "variant") if platform.get(name)) or None


def _evidence(row: Mapping[str, Any]) -> Evidence:
    findings = read_summary(row["kind"], row["summary"])
    database = row["database"] if isinstance(row["database"], Mapping) else {}
    updated = database.get("updated_at")
    if updated is not None and read_instant(updated) is None:
        findings = None  # a report that cannot say how old its knowledge is
    return Evidence(
        digest=row["digest"],
        kind=row["kind"],
        status=row["status"],
        finished_at=row["finished_at"],
        findings=findings,
        database_updated_at=read_instant(updated),
    )
