"""`xumi rm` and `xumi prune`: forget versions of the local repository, and free what no version needs."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.authoring.repository import LocalRepository
from berth.cli.output import Format, Output, OutputOption, human_size
from berth.client.credentials import environment
from berth.errors import InvalidInput


def rm(
    refs: Annotated[
        list[str] | None, typer.Argument(help="Versions, as project/model:version.", metavar="REF...")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Also delete blobs that no version needs.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Remove versions from the local repository; your own weight files are never deleted.

    What was pushed stays where it was pushed to.

    Example: xumi rm acme/file-type:1.0.0 --prune
    """
    out = Output(output)
    if not refs and not prune:
        raise InvalidInput("Name a version, or use --prune.", hint="`xumi ls` lists the versions.")
    repository = LocalRepository(environment().home)
    for ref in refs or ():
        repository.resolve(ref)
    removed = [{"reference": ref, "digest": repository.remove(ref).digest} for ref in refs or ()]
    freed = repository.prune() if prune else 0
    lines = [f"removed {item['reference']}" for item in removed]
    if prune:
        lines.append(f"freed {human_size(freed)}")
    out.result({"removed": removed, "freed": freed}, "\n".join(lines))


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much it would free.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Delete blobs of the local repository that no version needs; your own weight files are never deleted.

    Example: xumi prune --dry-run
    """
    freed = LocalRepository(environment().home).prune(dry_run=dry_run)
    word = "Would free" if dry_run else "Freed"
    Output(output).result({"freed": freed, "dry_run": dry_run}, f"{word} {human_size(freed)}.")
