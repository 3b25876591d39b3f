"""The computed verdict per (repository, root digest). Written by `gates` only; everyone else reads `admitted`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Table,
    Text,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB

from berth.db.tables.metadata import metadata

verdicts = Table(
    "verdicts",
    metadata,
    Column("repository_id", BigInteger, ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True),
    Column("root", Text, primary_key=True),
    Column("admitted", Boolean, nullable=False),
    # The earliest instant at which time alone could change the answer; '-infinity' = stale, decide again.
    Column("valid_until", DateTime(timezone=True), nullable=False),
    Column("reasons", JSONB, nullable=False),  # [{"code", "message", "subject"?}]
    Column("policy_hash", Text, nullable=False),
    Column("trust_hash", Text, nullable=False),
    Column("evidence_hash", Text, nullable=False),
    Column("decided_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_verdicts_root", "root"),
)
