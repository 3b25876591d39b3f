"""Other registries that are known here, how to sign in there, and what they can do."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    LargeBinary,
    Table,
    Text,
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
    CheckConstraint("name <> 'depot' and name !~ ':'", name="name"),
)
