"""`xumi approve`: a reviewer lets a version pass."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption
from berth.client import Berth

DONE = {"approved": "Approved", "rejected": "Rejected", "revoked": "Revoked the approval of"}


def approve(
    ref: Annotated[str, typer.Argument(help="project/model:version or @digest.")],
    note: Annotated[str | None, typer.Option("--note", help="Why; kept with the decision.")] = None,
    output: OutputOption = Format.text,
) -> None:
    """Approve a version. Prints the verdict that follows from it.

    Example: xumi approve acme/file-type:1.0.0 --note 'reviewed on Monday'
    """
    record(ref, "approved", note, Output(output))


def record(ref: str, decision: str, note: str | None, out: Output) -> None:
    """Sends one decision about a version and prints the verdict that follows."""
    with Berth.from_settings() as berth:
        answer = berth.versions.decide(ref, decision, note=note)
        verdict = berth.versions.verdict(ref)
    lines = [f"{DONE[decision]} {ref}.", f"Verdict: {verdict.verdict}"]
    lines += [f"  - {r.get('code')}: {r.get('message')}" for r in verdict.reasons]
    out.result({**answer, "verdict": verdict.verdict, "reasons": list(verdict.reasons)}, "\n".join(lines))
