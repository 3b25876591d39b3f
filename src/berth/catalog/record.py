"""How is pushed content remembered? Writes manifests, links, tags, versions and report referrers in the caller's
transaction. Bytes are in the store before any of this runs (design §5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.adapters.stores.contract import StoredBlob
from berth.catalog import classify, intake, queries
from berth.catalog.declared import declared_of
from berth.catalog.fitting import needs
from berth.catalog.fitting import queries as fitting
from berth.catalog.queries import RepositoryRow
from berth.errors import BlobUnknownToManifest, ManifestInvalid, TooLarge
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor
from berth.oci.manifest import Manifest
from berth.oci.version import SemVer, sort_key

MAX_INDEX_NESTING = 8
MAX_EVIDENCE = 250
# The empty JSON config is part of every report referrer; it is never collected.
PINNED = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Receipt:
    """What a manifest PUT did.

    Attributes:
        action: child | tag | version | repeat (catalog/intake.py).
        version: semver text of a version or repeat.
        subject: digest of the manifest's own `subject`, for the OCI-Subject header.
        evidence_for: digest of the manifest this one is evidence about, if it qualifies.
    """

    digest: str
    action: str
    version: str | None
    subject: str | None
    evidence_for: str | None


async def put_manifest(
    conn: AsyncConnection,
    *,
    repository: RepositoryRow,
    tag: str | None,
    manifest: Manifest,
    digest: str,
    documents: Mapping[str, bytes],
    pushed_by: str,
    elsewhere: Collection[str] = (),
) -> Receipt:
    """Record a manifest under a tag, or by digest alone.

    Args:
        elsewhere: blobs that the caller has seen at a registry, where the version is about to be placed.
        documents: bytes of the config (for labels) and, for evidence, of the layers; by digest.

    Raises:
        BlobUnknownToManifest: config, layer or child is not in this repository.
        ManifestInvalid, VersionInvalid, VersionTaken, Conflict: see catalog/intake.py.
    """
    await _check_content(conn, repository, manifest, elsewhere)
    role = classify.role_of(manifest, documents)
    evidence_for = classify.evidence_subject(manifest, tag, documents)
    if tag is not None:
        await queries.lock_repository(conn, repository.id)
        repository = await queries.repository(conn, repository.name) or repository
    if evidence_for is not None and await queries.versions_with_digest(conn, repository.id, digest):
        evidence_for = None  # a version is judged by its own verdict, never by somebody else's
    before = await queries.manifest_in(conn, repository.id, digest)
    decision = intake.decide(await _facts(conn, repository, tag, digest=digest, role=role))
    about = evidence_for or (before.evidence_for if before is not None else None)
    if decision.action == "version" and about is not None:
        raise ManifestInvalid(
            f"This manifest is evidence about {about}, not a version.", hint="Push it by its digest, without a tag."
        )
    if evidence_for is not None and before is None:
        await _check_evidence_count(conn, repository, evidence_for)
    await queries.insert_manifest(
        conn,
        {
            "digest": digest,
            "media_type": manifest.media_type,
            "artifact_type": manifest.referrer_artifact_type,
            "body": manifest.body,
            "size": len(manifest.body),
            "annotations": dict(manifest.annotations),
            "subject": manifest.subject.digest if manifest.subject else None,
            "role": "evidence" if evidence_for and role == "unknown" else role,
        },
    )
    await queries.link_manifest(
        conn,
        {
            "repository_id": repository.id,
            "digest": digest,
            "evidence_for": evidence_for,
            "subject": manifest.subject.digest if manifest.subject else None,
            "pushed_by": pushed_by,
        },
    )
    await queries.insert_closure(
        conn,
        repository.id,
        digest,
        blobs=[blob.digest for blob in manifest.blobs()],
        children=[child.digest for child in manifest.children()],
    )
    if tag is not None:
        await queries.put_tag(conn, repository.id, tag, digest)
    if decision.action == "version" and decision.version is not None:
        if decision.kind is not None:
            await queries.fix_kind(conn, repository.id, decision.kind)
        declared = declared_of(manifest, documents, repository=repository.name, version=decision.version)
        version_id = await queries.insert_version(
            conn,
            {
                "repository_id": repository.id,
                "version": decision.version,
                "digest": digest,
                "sort_key": sort_key(decision.version),
                "prerelease": bool(SemVer.parse(decision.version).prerelease),
                "declared": declared,
                "pushed_by": pushed_by,
            },
        )
        await fitting.record_needs(conn, version_id, repository.id, needs.rows_of(needs.hardware_of(declared)))
    elif decision.action == "repeat" and decision.version is not None:
        await _restore(conn, repository, decision.version)
    return Receipt(
        digest=digest,
        action=decision.action,
        version=decision.version,
        subject=manifest.subject.digest if manifest.subject else None,
        evidence_for=evidence_for,
    )


async def _facts(
    conn: AsyncConnection, repository: RepositoryRow, tag: str | None, *, digest: str, role: str
) -> intake.IntakeFacts:
    held = None
    if tag is not None:
        version = await queries.version_by_number(conn, repository.id, tag.replace("_", "+"))
        held = version.digest if version is not None else None
    return intake.IntakeFacts(
        repository=repository.name,
        tag=tag,
        digest=digest,
        open_project=repository.open_project,
        role=role,
        kind=repository.kind,
        version_digest=held,
        aliases=await queries.alias_names(conn, repository.id) if tag is not None else frozenset(),
    )


async def _check_content(
    conn: AsyncConnection, repository: RepositoryRow, manifest: Manifest, elsewhere: Collection[str]
) -> None:
    """Everything the manifest names must be here already, with the size it says, or known to be at a registry."""
    named = [blob for blob in manifest.blobs() if blob.media_type not in types.FOREIGN_LAYER_TYPES]
    held = await queries.lock_linked_blobs(conn, repository.id, [blob.digest for blob in named])
    lost = await queries.homeless(conn, set(held) - set(elsewhere))
    missing = [blob.digest for blob in named if blob.digest not in held or blob.digest in lost]
    children = [child.digest for child in manifest.children()]
    present = await queries.children_present(conn, repository.id, children)
    missing += [child for child in children if child not in present]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise BlobUnknownToManifest(
            f"The manifest names content that {repository.name} does not hold: {shown}.",
            hint="Push (or mount) blobs and child manifests before the manifest.",
            detail={"missing": missing[:100]},
        )
    for blob in named:
        if blob.size != held[blob.digest]:
            raise ManifestInvalid(f"The manifest says {blob.digest} has {blob.size} bytes; it has {held[blob.digest]}.")
    stored = {row.digest: row for row in await queries.manifests_in(conn, repository.id, children)} if children else {}
    for child in manifest.children():
        found = stored[child.digest]
        if (child.size, child.media_type) != (found.size, found.media_type):
            raise ManifestInvalid(
                f"The index says {child.digest} is {child.media_type} of {child.size} bytes; "
                f"it is {found.media_type} of {found.size} bytes."
            )
    await _check_nesting(conn, children)


async def _check_evidence_count(conn: AsyncConnection, repository: RepositoryRow, subject: str) -> None:
    """Evidence leaves with its subject, unscanned: it must not become a way to carry everything else out."""
    if await queries.count_evidence(conn, repository.id, subject) >= MAX_EVIDENCE:
        raise TooLarge(
            f"{subject} has {MAX_EVIDENCE} pieces of evidence pushed by people already.",
            hint="Delete some of them first.",
        )


async def _check_nesting(conn: AsyncConnection, children: list[str]) -> None:
    level = children
    for _ in range(MAX_INDEX_NESTING):
        bodies = await queries.index_bodies(conn, level)
        if not bodies:
            return
        level = sorted({child.digest for body in bodies for child in manifests.parse(body).children()})
    raise ManifestInvalid(f"Indexes are nested more than {MAX_INDEX_NESTING} levels deep.")


async def _restore(conn: AsyncConnection, repository: RepositoryRow, version: str) -> None:
    """The same bytes pushed again bring a deleted version back; what people decided about it still stands."""
    row = await queries.version_by_number(conn, repository.id, version)
    if row is not None and row.state == "deleted":
        await queries.set_version(conn, row.id, state="received")


async def attach_report(
    conn: AsyncConnection,
    *,
    subject_digest: str,
    artifact_type: str,
    report: StoredBlob,
    report_media_type: str,
    annotations: Mapping[str, str],
    only: int | None = None,
) -> str:
    """Attach a report as a referrer in each repository that holds the subject (or `only` one); returns its digest.

    `report` was stored by `store.put_bytes` before the transaction; the empty config blob was pinned at start-up.
    """
    lease = datetime.now(UTC) + timedelta(days=1)
    await queries.insert_blob(conn, digest=report.digest, size=report.size, location=report.location, lease_until=lease)
    holders = await queries.repositories_holding(conn, subject_digest) if only is None else [only]
    for repository_id in holders:
        subject = await queries.manifest_in(conn, repository_id, subject_digest)
        if subject is None:
            continue
        body = manifests.image(
            artifact_type=artifact_type,
            config=Descriptor(types.OCI_EMPTY, digests.EMPTY_JSON, 2),
            layers=[Descriptor(report_media_type, report.digest, report.size)],
            subject=Descriptor(subject.media_type, subject.digest, subject.size),
            annotations=dict(annotations),
        )
        parsed = manifests.parse(body, types.OCI_MANIFEST)
        digest = digests.of_bytes(body)
        for blob in (digests.EMPTY_JSON, report.digest):
            await queries.link_blob(conn, repository_id, blob)
        await queries.insert_manifest(
            conn,
            {
                "digest": digest,
                "media_type": types.OCI_MANIFEST,
                "artifact_type": artifact_type,
                "body": body,
                "size": len(body),
                "annotations": dict(parsed.annotations),
                "subject": subject.digest,
                "role": "evidence",
            },
        )
        await queries.link_manifest(
            conn,
            {
                "repository_id": repository_id,
                "digest": digest,
                "evidence_for": subject.digest,
                "subject": subject.digest,
                "pushed_by": "berth",
            },
        )
        await queries.insert_closure(
            conn, repository_id, digest, blobs=[digests.EMPTY_JSON, report.digest], children=[]
        )
    return report.digest


async def pin_empty_config(conn: AsyncConnection, empty: StoredBlob) -> None:
    """Make the two-byte config of report referrers known for ever; called once when the service is prepared."""
    await queries.insert_blob(conn, digest=empty.digest, size=empty.size, location=empty.location, lease_until=PINNED)
