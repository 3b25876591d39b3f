"""The first tables.

While no release exists, this revision makes whatever `berth.db.tables` declares. Before the first release its body is
replaced by explicit operations, so that later changes of the tables do not change what this revision means: on an
empty database say the command in migrations/alembic.ini with `--rev-id 0001 -m "first tables"` after deleting this
file; tests/unit/db compares the result with the tables.
"""

from __future__ import annotations

from alembic import op

from berth.db.tables import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    metadata.create_all(op.get_bind())
