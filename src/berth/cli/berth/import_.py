"""`berth import`: versions come in from a file that `berth export` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from berth.cli.output import Column, Format, Output, OutputOption, human_size
from berth.client import Berth
from berth.errors import Conflict

_STEPS: list[Column] = ["action", ("repository", "model"), "version", "evidence", "reason"]


def import_(
    file: Annotated[Path, typer.Argument(help="A file that `berth export` wrote.")],
    project: Annotated[
        str | None, typer.Option("--project", help="Bring all models into this project, whatever theirs was.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every digest in the file and say what would happen.")
    ] = False,
    output: OutputOption = Format.text,
) -> None:
    """Bring in the versions of a file, then without it.

    Only what the service lacks is sent, so the same file again moves nothing, and a try that broke off goes on. What
    comes in is scanned here and refused until then; signatures count if the project here trusts their keys.

    Example: berth import demo.tar --dry-run
    """
    out = Output(output)
    with Berth.from_settings() as berth, out.progress() as progress:
        done = berth.archives.import_(file, project=project, dry_run=dry_run, progress=progress)
    data = {
        "items": list(done.items),
        "bytes_missing": done.missing_bytes,
        "bytes_transferred": done.bytes_transferred,
        "dry_run": done.dry_run,
    }
    if out.json:
        out.result(data)
    else:
        out.table(list(done.items), _STEPS)
        moved = done.missing_bytes if dry_run else done.bytes_transferred
        out.note(f"{human_size(moved)} {'would be' if dry_run else 'were'} sent.")
    for item in done.items:
        for note in item["notes"]:
            out.note(f"{item['name']}: {note}")
        if item["aliases"] and item["action"] == "import":
            out.note(f"{item['name']} was called {', '.join(item['aliases'])} there; aliases are not moved here.")
    if done.problems:
        first = done.problems[0]
        raise Conflict(
            f"{len(done.problems)} of {len(done.items)} versions {'would not come' if dry_run else 'did not come'} in: "
            f"{first['repository']}:{first['version']}: {first['reason']}",
            hint="Versions never change: give one of the two another number.",
        )
    waiting = [item for item in done.items if item["action"] == "import"]
    if waiting and not dry_run:
        out.step(f"xumi explain {waiting[0]['repository']}:{waiting[0]['version']}   says what it still needs")
