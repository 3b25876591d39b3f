"""What each version needs to run, typed: one row per architecture it runs on (mission H1).

Written once, from what the version declares; it follows from the digest and never changes. Zero means no need, so that
every comparison with a machine is `need <= offer`. Versions that declare no hardware have no row.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Index, Integer, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY

from berth.db.tables.metadata import metadata

version_needs = Table(
    "version_needs",
    metadata,
    Column("version_id", BigInteger, ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True),
    Column("architecture", Text, primary_key=True),
    Column("repository_id", BigInteger, nullable=False),  # the version's; saves a look at a million versions
    Column("cpu", Double, nullable=False),
    Column("cpu_features", ARRAY(Text), nullable=False),
    Column("memory", BigInteger, nullable=False),
    Column("disk", BigInteger, nullable=False),
    Column("gpu_count", Integer, nullable=False),
    Column("gpu_memory", BigInteger, nullable=False),  # of each device
    Column("gpu_vendor", Text),  # null: any
    Column("gpu_models", ARRAY(Text), nullable=False),  # as authoring/fit.py `device_words` writes them; empty: any
    Column("gpu_capability", ARRAY(Integer), nullable=False),  # [8, 6] is 8.6; arrays compare like versions
    Column("gpu_runtime", Text),  # cuda, rocm; null: none, or one that cannot be compared
    Column("gpu_runtime_version", ARRAY(Integer), nullable=False),
    Index("ix_version_needs_machine", "architecture", "gpu_count", "gpu_memory", "memory"),
)
