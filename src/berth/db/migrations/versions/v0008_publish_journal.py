"""How far a publication is, when it is tried next, whether it is held, and how much the way home may take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("blobs_done", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("blobs_total", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("bytes_done", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("bytes_total", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("held", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    ):
        op.add_column("placements", column)
    op.add_column(
        "projects",
        sa.Column(
            "publishing", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
    )


def downgrade() -> None:
    op.drop_column("projects", "publishing")
    for name in ("held", "next_try_at", "bytes_total", "bytes_done", "blobs_total", "blobs_done", "started_at"):
        op.drop_column("placements", name)
