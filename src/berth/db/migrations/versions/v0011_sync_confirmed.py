"""Evidence that a target was seen to hold, so that the next runs of a rule need not ask for each piece again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sync_confirmed",
        sa.Column("rule_id", sa.BigInteger(), nullable=False),
        sa.Column("repository", sa.Text(collation="C"), nullable=False),
        sa.Column("digest", sa.Text(collation="C"), nullable=False),
        sa.Column("evidence", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["rule_id"], ["sync_rules.id"], name=op.f("fk_sync_confirmed_rule_id_sync_rules"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rule_id", "repository", "digest", name=op.f("pk_sync_confirmed")),
    )


def downgrade() -> None:
    op.drop_table("sync_confirmed")
