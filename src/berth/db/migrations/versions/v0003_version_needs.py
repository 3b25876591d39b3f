"""What each version needs, typed and indexed. Older rows are filled by the job `record_needs`, in small steps.

The previous release goes on working: it writes versions with `needs_recorded` false, which the job picks up.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "version_needs",
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("repository_id", sa.BigInteger(), nullable=False),
        sa.Column("cpu", sa.Double(), nullable=False),
        sa.Column("cpu_features", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False),
        sa.Column("disk", sa.BigInteger(), nullable=False),
        sa.Column("gpu_count", sa.Integer(), nullable=False),
        sa.Column("gpu_memory", sa.BigInteger(), nullable=False),
        sa.Column("gpu_vendor", sa.Text(), nullable=True),
        sa.Column("gpu_models", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("gpu_capability", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.Column("gpu_runtime", sa.Text(), nullable=True),
        sa.Column("gpu_runtime_version", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_version_needs_version_id_versions"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", "architecture", name=op.f("pk_version_needs")),
    )
    op.create_index(
        "ix_version_needs_machine",
        "version_needs",
        ["architecture", "gpu_count", "gpu_memory", "memory"],
        unique=False,
    )
    op.add_column(
        "versions", sa.Column("needs_recorded", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.create_index(
        "ix_versions_needs_due", "versions", ["id"], unique=False, postgresql_where=sa.text("not needs_recorded")
    )
