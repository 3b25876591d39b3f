"""`berth promote`: a version goes from one project to another by digest, with its signatures."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Column, Format, Output, OutputOption
from berth.client import Berth
from berth.errors import Conflict, Denied

_COLUMNS: list[Column] = ["action", "source", ("repository", "to"), "version", "verdict", "reason"]


def promote(
    source: Annotated[
        str, typer.Argument(help="project/model:version, alias or @digest; a range means all admitted versions in it.")
    ],
    target: Annotated[str, typer.Argument(help="project/model, or project/model:version.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Copy versions to another project.

    No byte moves. Signatures and attestations go along and scans are known by digest; the approval does not: the
    policy of the target decides anew.

    Example: berth promote team/demo:1.2.0 prod/demo --dry-run
    """
    out = Output(output)
    with Berth.from_settings() as berth:
        answer = berth.versions.promote(source, target, dry_run=dry_run)
    items = answer["items"]
    if out.json:
        out.result(answer)
    else:
        out.table(items, _COLUMNS)
    for item in items:
        for note in item["notes"]:
            out.note(f"{item['source']}: {note}")
    conflicts = [item for item in items if item["action"] == "conflict"]
    if conflicts:
        raise Conflict(
            f"{len(conflicts)} of {len(items)} versions {'would not be' if dry_run else 'were not'} promoted: "
            f"{conflicts[0]['reason']}",
            hint="Give it another number there: berth promote SOURCE project/model:VERSION.",
        )
    refused = [item for item in items if item["action"] == "refused"]
    if refused:
        raise Denied(
            f"{len(refused)} of {len(items)} versions {'would not be' if dry_run else 'were not'} promoted: "
            f"{refused[0]['reason']}",
            reasons=[],
            hint=f"If it is fit after all: xumi approve {refused[0]['source']}",
        )
    waiting = [item for item in items if item["verdict"] == "deny"]
    if waiting:
        out.step(f"xumi explain {waiting[0]['repository']}:{waiting[0]['version']}   says what it still needs there")
