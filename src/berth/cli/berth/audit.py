"""`berth audit`: who changed what, and who was refused."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption
from berth.client import Berth


def ls(
    project: Annotated[
        str | None, typer.Option("--project", help="Only this project; without it, everything (global auditors).")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many entries at most, newest first.")] = 50,
    output: OutputOption = Format.text,
) -> None:
    """List who did what, and what was refused.

    Example: berth audit ls --project vision --limit 20
    """
    with Berth.from_settings() as berth:
        rows = berth.audit.ls(project=project, limit=limit)
    columns = ["at", "principal", "action", "outcome", "project", "object"]
    Output(output).table(rows, columns, empty="There are no entries.")
