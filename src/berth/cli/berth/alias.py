"""`berth alias`: movable names of versions, with their history."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption, YesOption, confirm
from berth.client import Berth

Model = Annotated[str, typer.Argument(help="project/model.")]
Alias = Annotated[str, typer.Argument(help="Name of the alias, e.g. production.")]


def set_(
    model: Model,
    alias: Alias,
    version: Annotated[str, typer.Argument(help="Semantic version to point at.")],
    reason: Annotated[str | None, typer.Option("--reason", help="Why; kept in the history.")] = None,
    output: OutputOption = Format.text,
) -> None:
    """Point an alias at a version. Only admitted versions are ever served through it.

    Example: berth alias set vision/detector production 1.2.0
    """
    with Berth.from_settings() as berth:
        answer = berth.aliases.set(model, alias, version, reason=reason)
    Output(output).result(answer, f"{model}:{alias} is {version} now.")


def ls(model: Model, output: OutputOption = Format.text) -> None:
    """List a model's aliases.

    Example: berth alias ls vision/detector
    """
    with Berth.from_settings() as berth:
        rows = berth.aliases.ls(model)
    columns = ["alias", "version", "digest", "moved_at", "moved_by"]
    Output(output).table(rows, columns, empty="It has no aliases.")


def rm(model: Model, alias: Alias, yes: YesOption = False, output: OutputOption = Format.text) -> None:
    """Remove an alias. Its history is kept.

    Example: berth alias rm vision/detector production
    """
    with Berth.from_settings() as berth:
        if not yes:
            found = next((row["version"] for row in berth.aliases.ls(model) if row["alias"] == alias), None)
            now = f" ({found} now)" if found else ""
            confirm(f"Remove {model}:{alias}{now}? Who pulls by it finds nothing from then on.")
        berth.aliases.rm(model, alias)
    Output(output).result({"removed": alias}, f"Removed {model}:{alias}.")


def history(
    model: Model,
    alias: Alias,
    at: Annotated[str | None, typer.Option("--at", help="Only where it pointed at this ISO 8601 instant.")] = None,
    output: OutputOption = Format.text,
) -> None:
    """Show where an alias pointed, and when.

    Example: berth alias history vision/detector production --at 2026-11-01T00:00:00Z
    """
    with Berth.from_settings() as berth:
        rows = berth.aliases.history(model, alias, at=at)
    Output(output).table(rows, ["version", "digest", "moved_at", "moved_by", "reason"], empty="It pointed nowhere.")


def rollback(model: Model, alias: Alias, output: OutputOption = Format.text) -> None:
    """Point an alias at the version before, in one step.

    Example: berth alias rollback vision/detector production
    """
    with Berth.from_settings() as berth:
        answer = berth.aliases.rollback(model, alias)
    Output(output).result(answer, f"{model}:{alias} is {answer.get('version')} again.")
