"""Every change and every denied try. Append-only."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from berth.db.tables.metadata import metadata

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("principal", Text),  # null = anonymous
    Column("action", Text, nullable=False),
    Column("project", Text),
    Column("object", Text, nullable=False, server_default=text("''")),
    Column("outcome", Text, nullable=False),  # done | denied
    Column("detail", JSONB, nullable=False, server_default=text("'{}'")),
    Index("ix_audit_project", "project", "id"),
)

# Small facts of the installation itself, e.g. the key that signs bearer tokens.
installation = Table(
    "installation",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", JSONB, nullable=False),
)
