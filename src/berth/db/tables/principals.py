"""Who may act: people, robots and service identities, and the tokens they act with."""

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
    LargeBinary,
    Table,
    Text,
    func,
    text,
)

from berth.db.tables.metadata import metadata

principals = Table(
    "principals",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    # `user` and `robot` are people's and automation's own; `scanner`, `sync`, `ci` are service kinds
    # that only a global admin may give (design §6 "Tokens") and that never count as usage.
    Column("kind", Text, nullable=False, server_default=text("'user'")),
    Column("global_role", Text),  # null | auditor | admin
    # Raised to void every token and every signed bearer token of this principal at once.
    Column("epoch", Integer, nullable=False, server_default=text("0")),
    Column("disabled", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("kind in ('user','robot','scanner','sync','ci')", name="kind"),
    CheckConstraint("global_role in ('auditor','admin')", name="global_role"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("principal_id", BigInteger, ForeignKey("principals.id", ondelete="CASCADE"), nullable=False),
    # SHA-256 of the token's text; tokens hold 256 random bits, so no slow hash is needed.
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("name", Text, nullable=False, server_default=text("''")),
    # Both set: the token has exactly this role in this project and nothing elsewhere.
    # Both null: the token acts with all rights of its principal.
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="CASCADE")),
    Column("role", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    CheckConstraint("(project_id is null) = (role is null)", name="scope"),
    Index("ix_tokens_principal", "principal_id"),
)
