"""Other registries that are known here: how to sign in there, what they can do, and what they tell us."""

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
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from berth.db.tables.metadata import metadata

registries = Table(
    "registries",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    # 'depot' is our own store and 'folder:/path' a folder: neither can be the name of a row.
    Column("name", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("username", Text),
    # Sealed by db/sealing.py with the row's name; the key is not in the database.
    Column("secret", LargeBinary),
    Column("options", JSONB, nullable=False, server_default=text("'{}'")),
    # Versions of open projects, which nothing was asked of, are published only where this is said (design §6).
    Column("takes_open", Boolean, nullable=False, server_default=text("false")),
    # What the last probe found, null before the first one.
    Column("capabilities", JSONB),
    Column("probed_at", DateTime(timezone=True)),
    Column("created_by", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # What its deliveries have to carry; sealed like `secret`, null while it tells us nothing.
    Column("hook_secret", LargeBinary),
    CheckConstraint("name <> 'depot' and name !~ ':'", name="name"),
)

# What registries said has happened there; deliveries repeat, so each event is stored once, by its key.
registry_events = Table(
    "registry_events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("registry_id", BigInteger, ForeignKey("registries.id", ondelete="CASCADE"), nullable=False),
    Column("key", Text, nullable=False),
    Column("action", Text, nullable=False),  # pushed | pulled | deleted | scanned | other
    Column("repository", Text),  # by our own name; null when it is none of ours
    Column("digest", Text),
    Column("tag", Text),
    Column("happened_at", DateTime(timezone=True)),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("deliveries", Integer, nullable=False, server_default=text("1")),
    Column("state", Text, nullable=False, server_default=text("'new'")),
    Column("outcome", Text),
    CheckConstraint("state in ('new','done')", name="state"),
    UniqueConstraint("registry_id", "key", name="uq_registry_events_key"),
    Index("ix_registry_events_registry", "registry_id", "id"),
    Index("ix_registry_events_received", "received_at"),
    Index("ix_registry_events_new", "registry_id", "id", postgresql_where=text("state = 'new'")),
)

# How often content was pulled there, as far as its events say.
registry_pulls = Table(
    "registry_pulls",
    metadata,
    Column("registry_id", BigInteger, ForeignKey("registries.id", ondelete="CASCADE"), primary_key=True),
    Column("repository", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("pulls", BigInteger, nullable=False, server_default=text("0")),
    Column("last_at", DateTime(timezone=True), nullable=False),
)
