"""`xumi scans`: are the scans of a version done? Or start them again."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption
from berth.client import Berth


def scans(
    ref: Annotated[str, typer.Argument(help="project/model:version or @digest.")],
    again: Annotated[bool, typer.Option("--again", help="Start every scan of the version anew.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they have ended.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="With --wait: seconds to wait at most.")] = 900,
    output: OutputOption = Format.text,
) -> None:
    """Show which scans of a version are pending, or start them again."""
    out = Output(output)
    with Berth.from_settings() as berth:
        if again:
            berth.versions.rescan(ref)
        if wait:
            berth.versions.wait(ref, timeout=timeout)
        state = berth.versions.scans(ref)
    pending = state.get("pending") or []
    names = ", ".join(str(p.get("kind", p)) if isinstance(p, dict) else str(p) for p in pending)
    out.result(state, "All scans are done." if state.get("done") else f"Pending: {names or 'not started yet'}")
