"""A PostgreSQL server per test process, and a fresh migrated database per test, cloned from a template."""

from __future__ import annotations

import itertools
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from berth.db import migrate
from berth.db.embedded import DATABASE, OWNER_ROLE, SERVICE_ROLE, EmbeddedPostgres

# Tests kill processes, never the machine: nothing has to reach the disk.
FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off"}
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


def on_database(url: str, name: str) -> str:
    """The same URL, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


class Databases:
    """Makes databases on one server. The embedded server's own database is migrated once and serves as template."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        self._numbers = itertools.count(1)
        migrate.upgrade(server.owner_url, SERVICE_ROLE)

    def create(self, *, empty: bool = False) -> str:
        """Name of a new database: migrated, or empty."""
        name = f"test_{next(self._numbers)}"
        template = "template1" if empty else DATABASE
        with psycopg.connect(self.server.superuser_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY FILE_COPY").format(
                    sql.Identifier(name), sql.Identifier(OWNER_ROLE), sql.Identifier(template)
                )
            )
        return name

    def drop(self, name: str) -> None:
        with psycopg.connect(self.server.superuser_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def service_url(self, name: str) -> str:
        return on_database(self.server.service_url, name)

    def owner_url(self, name: str) -> str:
        return on_database(self.server.owner_url, name)
