"""`xumi revoke`: a reviewer takes an approval back."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption
from berth.cli.xumi.approve import record


def revoke(
    ref: Annotated[str, typer.Argument(help="project/model:version or @digest.")],
    note: Annotated[str | None, typer.Option("--note", help="Why; kept with the decision.")] = None,
    output: OutputOption = Format.text,
) -> None:
    """Take an approval back. The version is refused at once, whatever grace the policy gives.

    Example: xumi revoke acme/file-type:1.0.0
    """
    record(ref, "revoked", note, Output(output))
