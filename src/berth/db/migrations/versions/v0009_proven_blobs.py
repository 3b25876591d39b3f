"""Which repositories have shown that they hold a blob, and which only a registry said so of?"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("repository_blobs", sa.Column("proven", sa.Boolean(), server_default=sa.text("true"), nullable=False))
    # What an import found and nobody has fetched since was never shown to anybody here.
    op.execute(
        "update repository_blobs rb set proven = false from blobs b where b.digest = rb.digest and b.location is null "
        "and exists (select 1 from closure c "
        "join versions v on v.repository_id = c.repository_id and v.digest = c.root "
        "join placements l on l.version_id = v.id and l.found "
        "where c.repository_id = rb.repository_id and c.digest = rb.digest)"
    )


def downgrade() -> None:
    op.drop_column("repository_blobs", "proven")
