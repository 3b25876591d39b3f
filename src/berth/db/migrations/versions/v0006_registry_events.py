"""What other registries tell us: their hook's secret, their events, pulls they count, and rules that events start."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("registries", sa.Column("hook_secret", sa.LargeBinary(), nullable=True))
    op.add_column("sync_rules", sa.Column("on_event", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index("ix_sync_rules_on_event", "sync_rules", ["source"], postgresql_where=sa.text("on_event"))
    op.create_table(
        "registry_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("registry_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("tag", sa.Text(), nullable=True),
        sa.Column("happened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deliveries", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'new'"), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.CheckConstraint("state in ('new','done')", name=op.f("ck_registry_events_state")),
        sa.ForeignKeyConstraint(
            ["registry_id"],
            ["registries.id"],
            name=op.f("fk_registry_events_registry_id_registries"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry_events")),
        sa.UniqueConstraint("registry_id", "key", name="uq_registry_events_key"),
    )
    op.create_index("ix_registry_events_registry", "registry_events", ["registry_id", "id"])
    op.create_index("ix_registry_events_received", "registry_events", ["received_at"])
    op.create_index(
        "ix_registry_events_new", "registry_events", ["registry_id", "id"], postgresql_where=sa.text("state = 'new'")
    )
    op.create_table(
        "registry_pulls",
        sa.Column("registry_id", sa.BigInteger(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("pulls", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["registry_id"],
            ["registries.id"],
            name=op.f("fk_registry_pulls_registry_id_registries"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("registry_id", "repository", "digest", name=op.f("pk_registry_pulls")),
    )
    op.create_index("ix_placements_place", "placements", ["registry", "repository"])
