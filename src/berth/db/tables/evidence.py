"""What our own jobs found out about a manifest, and every signature ever seen. Append-only."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from berth.db.tables.metadata import metadata

# One scan of one leaf manifest. Evidence belongs to the digest and is shared by all repositories that hold it.
evidence = Table(
    "evidence",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("digest", Text, nullable=False),
    Column("kind", Text, nullable=False),  # vulnerabilities | weights
    # ok = the scanner ran to the end and its findings can be judged; inconclusive = it could not look
    # (no database, no OS, unreadable content); failed = it crashed, hung, or returned nonsense.
    Column("status", Text, nullable=False),
    # adapters/scanners/contract.py `Summary`: counts by severity and fixability, malicious findings, problems.
    Column("summary", JSONB, nullable=False, server_default=text("'{}'")),
    Column("tool", Text, nullable=False),
    Column("tool_version", Text, nullable=False, server_default=text("''")),
    Column("database", JSONB, nullable=False, server_default=text("'{}'")),  # repository, digest, updated_at
    Column("report", Text),  # digest of the blob that holds the full report
    Column("report_media_type", Text),
    Column("log", Text, nullable=False, server_default=text("''")),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("kind in ('vulnerabilities','weights')", name="kind"),
    CheckConstraint("status in ('ok','inconclusive','failed')", name="status"),
    Index("ix_evidence_latest", "digest", "kind", "id"),
    Index("ix_evidence_report", "report"),
)

# Each signature found on the registry (union of all manifests ever pushed) with the outcome of checking it
# against one key, or against none (key_id null: no key of the project matches).
signatures = Table(
    "signatures",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("repository_id", BigInteger, ForeignKey("repositories.id", ondelete="CASCADE"), nullable=False),
    Column("subject", Text, nullable=False),  # digest of the signed manifest
    Column("kind", Text, nullable=False),  # cosign-classic | sigstore-bundle | attestation | notation
    Column("manifest", Text, nullable=False),  # digest of the manifest that carries it
    Column("payload", Text, nullable=False),  # digest of the payload or envelope blob
    Column("signature", Text, nullable=False, server_default=text("''")),
    Column("predicate_type", Text),
    Column("key_id", Text),
    Column("verdict", Text, nullable=False),  # valid | invalid | untrusted | unsupported
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("pushed_by", Text, nullable=False, server_default=text("''")),
    Column("checked_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("verdict in ('valid','invalid','untrusted','unsupported')", name="verdict"),
    UniqueConstraint("repository_id", "subject", "manifest", "payload", "signature", name="uq_signatures_identity"),
    Index("ix_signatures_subject", "repository_id", "subject"),
)
