"""Versions of models and checkpoints, aliases and their history, and people's decisions about versions."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from berth.db.tables.metadata import metadata

versions = Table(
    "versions",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("repository_id", BigInteger, ForeignKey("repositories.id"), nullable=False),
    # Semantic version text ('1.2.3-rc.1+cpu'). Burnt for ever once received: never reused for other bytes.
    Column("version", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("number", Integer, nullable=False),  # 1, 2, 3 … in order of arrival within the repository
    # oci/version.py `sort_key()`: its byte order is semver precedence.
    Column("sort_key", Text(collation="C"), nullable=False),
    Column("prerelease", Boolean, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'received'")),
    Column("approval", Text, nullable=False, server_default=text("'none'")),
    Column("deprecated", Boolean, nullable=False, server_default=text("false")),
    # What the manifest declares (inside the digest, immutable): read from index annotations or image labels.
    Column("declared", JSONB, nullable=False, server_default=text("'{}'")),
    Column("overlay", JSONB, nullable=False, server_default=text("'{}'")),
    # Whether `version_needs` says what this version needs; false on rows that a release before 0003 wrote.
    Column("needs_recorded", Boolean, nullable=False, server_default=text("false")),
    Column("pushed_by", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("repository_id", "version", name="uq_versions_version"),
    UniqueConstraint("repository_id", "number", name="uq_versions_number"),
    CheckConstraint("state in ('received','live','archived','deleted')", name="state"),
    CheckConstraint("approval in ('none','approved','rejected','revoked')", name="approval"),
    Index("ix_versions_order", "repository_id", "sort_key"),
    Index("ix_versions_digest", "repository_id", "digest"),
    Index("ix_versions_needs_due", "id", postgresql_where=text("not needs_recorded")),
)

aliases = Table(
    "aliases",
    metadata,
    Column("repository_id", BigInteger, ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version_id", BigInteger, ForeignKey("versions.id"), nullable=False),
    Column("moved_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("moved_by", Text, nullable=False),
    Index("ix_aliases_version", "version_id"),
)

# Every move, so that "what was production on date X" has an answer. version_id null = alias removed.
alias_moves = Table(
    "alias_moves",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("repository_id", BigInteger, ForeignKey("repositories.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("version_id", BigInteger, ForeignKey("versions.id")),
    Column("moved_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("moved_by", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Index("ix_alias_moves_history", "repository_id", "name", "id"),
)

# Approve, reject, revoke: append-only; the latest row of (repository, digest) counts.
approvals = Table(
    "approvals",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("repository_id", BigInteger, ForeignKey("repositories.id", ondelete="CASCADE"), nullable=False),
    Column("digest", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("note", Text, nullable=False, server_default=text("''")),
    Column("decided_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("decision in ('approved','rejected','revoked')", name="decision"),
    Index("ix_approvals_latest", "repository_id", "digest", "id"),
)
