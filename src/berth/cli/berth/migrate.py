"""`berth migrate`: brings the schema of a database up to date, as the role that owns its tables."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.berth._settings import service_settings
from berth.cli.berth.serve import database_needed
from berth.cli.output import Format, Output, OutputOption


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 when something is to be done.")
    ] = False,
    output: OutputOption = Format.text,
) -> int:
    """Bring the database's schema up to date. With `berth up` this happens by itself.

    Reads BERTH_DATABASE_URL and, when the tables belong to another role, BERTH_MIGRATION_DATABASE_URL.

    Example: berth migrate --check
    """
    settings = service_settings()
    service_url = database_needed(settings)
    owner = settings.migration_database_url
    owner_url = owner.get_secret_value() if owner is not None else service_url

    from berth.db import migrate as schema

    steps = schema.pending(owner_url)
    if check:
        said = "\n".join(["The database needs an upgrade:", *steps]) if steps else "The database is up to date."
        Output(output).result({"pending": steps}, said)
        return 1 if steps else 0
    # Also when nothing is missing: the service's role may be a new one.
    done = schema.upgrade(owner_url, schema.service_role_of(service_url, owner_url))
    said = "\n".join(["The database is up to date now:", *done]) if done else "The database was up to date."
    Output(output).result({"done": done}, said)
    return 0
