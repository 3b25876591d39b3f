"""What differs between the places of a sync rule, and since when."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sync_drift",
        sa.Column("rule_id", sa.BigInteger(), nullable=False),
        sa.Column("target_repository", sa.Text(collation="C"), nullable=False),
        sa.Column("tag", sa.Text(collation="C"), nullable=False),
        sa.Column("source_repository", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("target_digest", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("action in ('copy','conflict','prune')", name=op.f("ck_sync_drift_action")),
        sa.ForeignKeyConstraint(
            ["rule_id"], ["sync_rules.id"], name=op.f("fk_sync_drift_rule_id_sync_rules"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rule_id", "target_repository", "tag", name=op.f("pk_sync_drift")),
    )
