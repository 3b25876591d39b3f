"""Is the schema up to date, and how does it get there? Berth's own tables by Alembic, the queue's by procrastinate.

Both belong to the owner role; the service role gets rows only: SELECT, INSERT, UPDATE, DELETE, and no more than SELECT
and INSERT on the audit log. `pending` asks the database one question and imports no Alembic, so that a warm start
costs nothing.

The queue's schema comes as files of the procrastinate package: `schema.sql` for a new database and numbered migrations
for an older one. The number applied last is kept as the comment of the table `procrastinate_jobs`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import psycopg
from psycopg import errors as sqlstate
from psycopg import sql

from berth.errors import SetupError, Unavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection

# The newest revision in migrations/versions; a unit test compares it with what Alembic finds there.
HEAD: Final = "0011"
OLDEST_SERVER: Final = 15
# Serialises upgrades of one database; any fixed number will do.
_LOCK: Final = 7_317_045_562
# Rows of these tables are written once: the service may neither change nor remove them.
_APPEND_ONLY: Final = ("audit",)
_OWNERS_ALONE: Final = ("alembic_version",)

# A psycopg connection of any row type, ours or the one below SQLAlchemy.
_Raw = psycopg.Connection[Any]


def current(url: str) -> str | None:
    """Revision that the database is at; None when Berth never was there. Raises Unavailable or SetupError."""
    with _connected(url) as connection:
        return _revision(connection)


def pending(url: str) -> list[str]:
    """What `upgrade` would still do, in words; empty when the database is up to date.

    Raises SetupError when the database is newer than this Berth or older than PostgreSQL 15, Unavailable when it is
    away.
    """
    with _connected(url) as connection:
        return _missing(connection)


def upgrade(owner_url: str, service_role: str | None = None) -> list[str]:
    """Brings the schema up to date in one transaction and returns what it did, in words.

    Safe to run twice and from several machines at once: the second waits, and finds nothing to do.

    Args:
        owner_url: postgresql:// URL of the role that owns the tables (or will).
        service_role: role that gets rights on rows; None when the service uses the owner's role itself.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    from berth.db.engine import DRIVER, parse_url

    with _connected(owner_url):  # its errors are the clearer ones: server away, too old, wrong password
        pass
    engine = create_engine(parse_url(owner_url).set(drivername=DRIVER), poolclass=NullPool)
    with _explained(), engine.begin() as connection:
        raw: _Raw = connection.connection.driver_connection  # type: ignore[assignment]
        raw.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        steps = _missing(raw)
        if _revision(raw) != HEAD:
            _run_alembic(connection)
        _upgrade_queue(raw)
        if service_role is not None:
            _grant(raw, service_role)
    return steps


def service_role_of(service_url: str, owner_url: str) -> str | None:
    """Role name in the service's URL, None when both URLs use the same one."""
    service, owner = urlsplit(service_url).username, urlsplit(owner_url).username
    return service if service != owner else None


def queue_head() -> str:
    """Name of the newest migration that the installed procrastinate brings, without importing it."""
    return max(path.stem for path in _queue_migrations())


# -- steps ------------------------------------------------------------------------------------------------------------


def _missing(connection: _Raw) -> list[str]:
    revision, queue = _revision(connection), _queue_version(connection)
    if revision is not None and revision > HEAD:
        raise SetupError(
            f"The database is at revision {revision}, newer than this version of Berth knows ({HEAD}).",
            hint="Install the newer version again, or restore a backup from before its upgrade.",
            detail={"found": revision, "known": HEAD},
        )
    steps = []
    if revision != HEAD:
        steps.append(f"tables: {revision or 'nothing'} → {HEAD}")
    if queue is None or queue < queue_head():
        steps.append(f"job queue: {queue or 'nothing'} → {queue_head()}")
    return steps


def _run_alembic(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _upgrade_queue(connection: _Raw) -> None:
    version, head = _queue_version(connection), queue_head()
    if version is not None and version >= head:
        return
    if version is None and _exists(connection, "procrastinate_jobs"):
        # Made by hand with procrastinate's own command, without our note: take it as it is.
        files: list[Path] = []
    elif version is None:
        files = [_queue_folder() / "schema.sql"]
    else:
        files = sorted(path for path in _queue_migrations() if path.stem > version)
    for file in files:
        connection.execute(file.read_bytes())
    note = sql.SQL("COMMENT ON TABLE procrastinate_jobs IS {}").format(f"procrastinate {head}")
    connection.execute(note)


def _grant(connection: _Raw, role: str) -> None:
    """Rights on rows for what is there and, by default privileges, for what later upgrades make."""
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
        raise SetupError(
            f"The database has no role {role!r}, the one in BERTH_DATABASE_URL.",
            hint=f"Create it as a superuser: CREATE ROLE {role} LOGIN PASSWORD '…';",
        )
    to = sql.Identifier(role)
    rows, numbers = sql.SQL("SELECT, INSERT, UPDATE, DELETE"), sql.SQL("USAGE, SELECT")
    statements = [
        sql.SQL("GRANT USAGE ON SCHEMA public TO {to}").format(to=to),
        sql.SQL("GRANT {rights} ON ALL TABLES IN SCHEMA public TO {to}").format(rights=rows, to=to),
        sql.SQL("GRANT {rights} ON ALL SEQUENCES IN SCHEMA public TO {to}").format(rights=numbers, to=to),
        sql.SQL("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {to}").format(to=to),
    ]
    for rights, kind in ((rows, "TABLES"), (numbers, "SEQUENCES"), (sql.SQL("EXECUTE"), "FUNCTIONS")):
        statements.append(
            sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT {rights} ON {kind} TO {to}").format(
                rights=rights, kind=sql.SQL(kind), to=to
            )
        )
    for table in _APPEND_ONLY:
        statements.append(
            sql.SQL("REVOKE UPDATE, DELETE ON {table} FROM {to}").format(table=sql.Identifier(table), to=to)
        )
    for table in _OWNERS_ALONE:
        statements.append(
            sql.SQL("REVOKE INSERT, UPDATE, DELETE ON {table} FROM {to}").format(table=sql.Identifier(table), to=to)
        )
    for statement in statements:
        connection.execute(statement)


# -- questions --------------------------------------------------------------------------------------------------------


def _revision(connection: _Raw) -> str | None:
    if not _exists(connection, "alembic_version"):
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def _queue_version(connection: _Raw) -> str | None:
    row = connection.execute("SELECT obj_description(to_regclass('procrastinate_jobs')::oid, 'pg_class')").fetchone()
    note = row[0] if row else None
    return str(note).removeprefix("procrastinate ") if note else None


def _exists(connection: _Raw, table: str) -> bool:
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone()
    return bool(row and row[0])


def _queue_folder() -> Path:
    spec = importlib.util.find_spec("procrastinate")
    if spec is None or spec.origin is None:
        raise SetupError("The job queue is not installed.", hint='Install the service: pip install "berth[server]".')
    return Path(spec.origin).parent / "sql"


def _queue_migrations() -> list[Path]:
    return list((_queue_folder() / "migrations").glob("*.sql"))


@contextmanager
def _connected(url: str) -> Iterator[_Raw]:
    """A connection to a server that is new enough; its errors told in our words."""
    from berth.db.engine import CONNECT_TIMEOUT_SECONDS

    try:
        connection = psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_SECONDS, application_name="berth migrate")
    except psycopg.OperationalError as error:
        # libpq passes no SQLSTATE on while connecting. In another language this becomes `Unavailable` with its text.
        if any(words in str(error) for words in ("authentication failed", "does not exist", "permission denied")):
            raise SetupError(f"The database does not let us in: {_first_line(error)}") from error
        raise Unavailable(f"The database cannot be reached: {_first_line(error)}") from error
    except psycopg.ProgrammingError as error:
        raise SetupError(
            "The database URL cannot be read.", hint="It looks like postgresql://user:password@host:5432/name."
        ) from error
    with connection, _explained():
        version = connection.info.server_version // 10_000
        if version < OLDEST_SERVER:
            raise SetupError(
                f"The database is PostgreSQL {version}; Berth needs {OLDEST_SERVER} or newer.",
                hint="Upgrade the server, or leave BERTH_DATABASE_URL away to use the embedded one.",
                detail={"found": version, "needed": OLDEST_SERVER},
            )
        yield connection


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of statements, of psycopg itself and through SQLAlchemy, told in our words."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (psycopg.Error, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, sqlstate.InsufficientPrivilege):
            raise SetupError(
                f"The role may not do that in this database: {_first_line(cause)}",
                hint="Set BERTH_MIGRATION_DATABASE_URL to the role that owns the database.",
            ) from error
        if isinstance(cause, psycopg.OperationalError):
            raise Unavailable(f"The database went away: {_first_line(cause)}") from error
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
