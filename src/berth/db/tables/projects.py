"""Projects (tenants), their members and the signing keys they trust."""

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
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from berth.db.tables.metadata import metadata

ROLES = ("guest", "reader", "developer", "reviewer", "maintainer", "admin")

projects = Table(
    "projects",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("description", Text, nullable=False, server_default=text("''")),
    # The policy as `gates/policies.py` writes it, e.g. {"preset": "strict", ...overrides}.
    Column("policy", JSONB, nullable=False),
    # Hashes that a stored verdict must carry to be served without deciding again.
    Column("policy_hash", Text, nullable=False),
    Column("trust_hash", Text, nullable=False, server_default=text("''")),
    Column("home", Text, nullable=False, server_default=text("'depot'")),
    # How much the way home may take: {"bytes_per_second": …, "parallel_blobs": …}, as sync/rules.py reads it.
    Column("publishing", JSONB, nullable=False, server_default=text("'{}'")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

memberships = Table(
    "memberships",
    metadata,
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("principal_id", BigInteger, ForeignKey("principals.id", ondelete="CASCADE"), primary_key=True),
    Column("role", Text, nullable=False),
    CheckConstraint("role in ('guest','reader','developer','reviewer','maintainer','admin')", name="role"),
    Index("ix_memberships_principal", "principal_id"),
)

trusted_keys = Table(
    "trusted_keys",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("public_key", Text, nullable=False),  # SubjectPublicKeyInfo PEM
    Column("key_id", Text, nullable=False),  # hex SHA-256 of the DER SubjectPublicKeyInfo
    # Statements this key may make: 'signature' or a predicate type URI (design §6 "What counts as evidence").
    Column("predicates", ARRAY(Text), nullable=False, server_default=text("'{signature}'")),
    Column("added_by", Text, nullable=False),
    Column("added_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("revoked_at", DateTime(timezone=True)),
    Index("uq_trusted_keys_name", "project_id", "name", unique=True, postgresql_where=text("revoked_at is null")),
)
