"""Uploads that broke in the middle of a large blob, so that another process goes on with them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sync_uploads",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("placement_id", sa.BigInteger(), nullable=True),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("session", sa.LargeBinary(), nullable=False),
        sa.Column("offset_bytes", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(run_id is null) <> (placement_id is null)", name=op.f("ck_sync_uploads_owner")),
        sa.ForeignKeyConstraint(
            ["run_id"], ["sync_runs.id"], name=op.f("fk_sync_uploads_run_id_sync_runs"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["placement_id"],
            ["placements.id"],
            name=op.f("fk_sync_uploads_placement_id_placements"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sync_uploads")),
        sa.UniqueConstraint("run_id", "repository", "digest", name="uq_sync_uploads_run"),
        sa.UniqueConstraint("placement_id", "repository", "digest", name="uq_sync_uploads_placement"),
    )
    op.create_index("ix_sync_uploads_updated", "sync_uploads", ["updated_at"])


def downgrade() -> None:
    op.drop_table("sync_uploads")
