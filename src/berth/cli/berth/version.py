"""`berth version`: the versions a model has on the service."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption, YesOption, confirm
from berth.client import Berth

Ref = Annotated[str, typer.Argument(help="project/model:version, alias, latest, range or @digest.")]


def ls(
    model: Annotated[str, typer.Argument(help="project/model.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many.")] = None,
    output: OutputOption = Format.text,
) -> None:
    """List a model's versions.

    Example: berth version ls vision/detector
    """
    with Berth.from_settings() as berth:
        rows = berth.versions.ls(model, limit=limit)
    columns = ["version", "digest", "state", "approval", "verdict", "deprecated", "created_at"]
    Output(output).table(rows, columns, empty="It has no versions.")


def show(ref: Ref, output: OutputOption = Format.text) -> None:
    """Show one version: what its manifest declares, its state and its verdict.

    Example: berth version show vision/detector:1.2.0
    """
    with Berth.from_settings() as berth:
        answer = berth.versions.show(ref)
    Output(output).result(answer)


def rm(
    ref: Annotated[str, typer.Argument(help="project/model:version or @digest.")],
    yes: YesOption = False,
    output: OutputOption = Format.text,
) -> None:
    """Delete a version. Its number stays taken for ever.

    Example: berth version rm vision/detector:1.2.0
    """
    if not yes:
        confirm(f"Delete {ref}? Its number cannot be used again.")
    with Berth.from_settings() as berth:
        berth.versions.rm(ref)
    Output(output).result({"deleted": ref}, f"Deleted {ref}.")


def deprecate(
    ref: Annotated[str, typer.Argument(help="project/model:version or @digest.")],
    undo: Annotated[bool, typer.Option("--undo", help="Take the mark away.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Mark a version as deprecated: it stays pullable, but `latest` and ranges pass over it.

    Example: berth version deprecate vision/detector:1.2.0
    """
    with Berth.from_settings() as berth:
        answer = berth.versions.deprecate(ref, deprecated=not undo)
    Output(output).result(answer, f"{ref} is {'not ' if undo else ''}deprecated.")
