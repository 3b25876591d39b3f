"""`xumi ls`: what is in the local repository?"""

from __future__ import annotations

from typing import Annotated

import typer

from berth.authoring.repository import LocalRepository
from berth.cli.output import Format, Output, OutputOption, human_size
from berth.client.credentials import environment


def ls(
    model: Annotated[str | None, typer.Argument(help="Only versions of this project/model.")] = None,
    output: OutputOption = Format.text,
) -> None:
    """List the versions in the local repository (XUMI_HOME).

    Example: xumi ls acme/file-type
    """
    out = Output(output)
    repository = LocalRepository(environment().home)
    rows = [
        {"name": v.name, "version": v.version, "digest": v.descriptor.digest, "size": v.size}
        for v in repository.versions()
        if model is None or v.name == model
    ]
    if out.json:
        out.result(rows)
        return
    shown = [{**row, "digest": str(row["digest"])[:19], "size": human_size(int(str(row["size"])))} for row in rows]
    out.table(shown, ["name", "version", "digest", "size"], empty="Nothing is built yet. `xumi build` makes a version.")
    if rows:
        use = repository.disk_use()
        out.note(
            f"{human_size(use.stored)} stored, {human_size(use.referenced)} of weights where they lie, "
            f"{human_size(use.reclaimable)} can be freed by `xumi prune`."
        )
