"""Blobs whose bytes are at a registry, fetches under way, places that were found, and imports as runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("blobs", "location", existing_type=sa.Text(), nullable=True)
    op.add_column(
        "blobs", sa.Column("read_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
    )
    op.create_index(
        "ix_blobs_read", "blobs", ["read_at"], unique=False, postgresql_where=sa.text("location is not null")
    )
    op.create_table(
        "fetches",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("received", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_fetches")),
    )
    op.add_column("placements", sa.Column("found", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.alter_column("sync_runs", "rule_id", existing_type=sa.BigInteger(), nullable=True)
    op.add_column("sync_runs", sa.Column("registry", sa.Text(), nullable=True))
    op.add_column("sync_runs", sa.Column("project_id", sa.BigInteger(), nullable=True))
    op.add_column(
        "sync_runs",
        sa.Column("terms", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )
    op.create_foreign_key(
        op.f("fk_sync_runs_project_id_projects"), "sync_runs", "projects", ["project_id"], ["id"], ondelete="CASCADE"
    )
    op.drop_constraint(op.f("ck_sync_runs_kind"), "sync_runs")
    op.create_check_constraint(op.f("ck_sync_runs_kind"), "sync_runs", "kind in ('run','plan','import','import-plan')")
    op.create_check_constraint(op.f("ck_sync_runs_subject"), "sync_runs", "(rule_id is null) <> (registry is null)")
    op.create_index(
        "uq_sync_runs_importing",
        "sync_runs",
        ["registry"],
        unique=True,
        postgresql_where=sa.text("kind = 'import' and state in ('queued','running')"),
    )
    op.drop_constraint(op.f("ck_sync_items_action"), "sync_items")
    op.create_check_constraint(
        op.f("ck_sync_items_action"), "sync_items", "action in ('copy','skip','conflict','prune','import')"
    )
