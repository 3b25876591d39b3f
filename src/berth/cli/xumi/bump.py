"""`xumi bump`: the next version in xumi.yaml."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from berth.authoring.bump import bump_file
from berth.cli.output import Format, Output, OutputOption


class Part(StrEnum):
    """What counts up."""

    major = "major"
    minor = "minor"
    patch = "patch"


def bump(
    part: Annotated[
        Part | None, typer.Argument(help="What counts up; default: patch, or nothing before a pre-release's release.")
    ] = None,
    directory: Annotated[
        Path, typer.Option("--directory", "-d", help="Folder with xumi.yaml, or the file itself.")
    ] = Path("."),
    pre: Annotated[
        str | None,
        typer.Option(
            "--pre", help="Make a pre-release with this label, such as alpha; auto: dev and the number of commits."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what it would be.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Write the next version into xumi.yaml; nothing else in the file changes.

    --pre auto counts the commits of the git repository (1.2.4-dev.57), so the same commit gives the same version. In a
    shallow clone it takes the commit's time, without a repository the time now.

    Example: xumi bump minor

    Example: xumi bump --pre auto
    """
    out = Output(output)
    done = bump_file(directory, part.value if part else None, pre, dry_run=dry_run)
    if done.counted not in (None, "commits"):
        out.note(f"note: commits cannot be counted here; the number is the {done.counted}.")
    out.result(
        {"file": str(done.path), "old": done.old, "new": done.new, "counted": done.counted, "written": not dry_run},
        f"{done.old} → {done.new}",
    )
