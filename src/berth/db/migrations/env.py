"""Where do revisions run? On the connection that db/migrate.py hands over, inside its transaction.

On the command line (writing a new revision, see alembic.ini) on the database named by `-x url=…`.
"""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection, create_engine

from berth.db.engine import DRIVER, parse_url
from berth.db.tables import metadata


def is_ours(name: str | None, kind: str, _parents: Any) -> bool:
    """The queue's tables are procrastinate's; see db/migrate.py."""
    return not (kind == "table" and (name or "").startswith("procrastinate_"))


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, include_name=is_ours)
    with context.begin_transaction():
        context.run_migrations()


handed_over: Connection | None = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    url = context.get_x_argument(as_dictionary=True)["url"]
    with create_engine(parse_url(url).set(drivername=DRIVER)).begin() as own:
        run(own)
