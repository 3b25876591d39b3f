"""`xumi scans`, `xumi scan`: are the scans of a version done? And: start them again."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption
from berth.client import Berth


def scans(
    ref: Annotated[str, typer.Argument(help="project/model:version or @digest.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they have ended.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="With --wait: seconds to wait at most.")] = 900,
    output: OutputOption = Format.text,
) -> None:
    """Show which scans of a version are pending.

    Example: xumi scans acme/file-type:1.0.0 --wait
    """
    _show(ref, again=False, wait=wait, timeout=timeout, out=Output(output))


def scan(
    ref: Annotated[str, typer.Argument(help="project/model:version or @digest.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they have ended.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="With --wait: seconds to wait at most.")] = 900,
    output: OutputOption = Format.text,
) -> None:
    """Scan a version again, on the service, with the scanners and databases of now.

    Example: xumi scan acme/file-type:1.0.0
    """
    _show(ref, again=True, wait=wait, timeout=timeout, out=Output(output))


def _show(ref: str, *, again: bool, wait: bool, timeout: float, out: Output) -> None:
    with Berth.from_settings() as berth:
        if again:
            berth.versions.rescan(ref)
        if wait:
            berth.versions.wait(ref, timeout=timeout)
        state = berth.versions.scans(ref)
    pending = state.get("pending") or []
    names = ", ".join(str(p.get("kind", p)) if isinstance(p, dict) else str(p) for p in pending)
    out.result(state, "All scans are done." if state.get("done") else f"Pending: {names or 'not started yet'}")
