"""`xumi reject`: a reviewer refuses a version."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption
from berth.cli.xumi.approve import record


def reject(
    ref: Annotated[str, typer.Argument(help="project/model:version or @digest.")],
    note: Annotated[str | None, typer.Option("--note", help="Why; kept with the decision.")] = None,
    output: OutputOption = Format.text,
) -> None:
    """Reject a version. Its number stays taken.

    Example: xumi reject acme/file-type:1.0.0 --note 'wrong training data'
    """
    record(ref, "rejected", note, Output(output))
