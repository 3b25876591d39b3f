"""`xumi explain`: may this version be pulled, and if not, why not?"""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.main import EXIT_DENIED
from berth.cli.output import Format, Output, OutputOption
from berth.client import Berth, Verdict


def explain(
    ref: Annotated[str, typer.Argument(help="project/model:version, alias, latest, range or @digest.")],
    output: OutputOption = Format.text,
) -> int:
    """Say whether a version may be pulled, and every reason why not. Exit code 0: yes, 3: no.

    Example: xumi explain acme/file-type:1.0.0 -o json
    """
    with Berth.from_settings() as berth:
        verdict = berth.versions.verdict(ref)
    data = {
        "digest": verdict.digest,
        "verdict": verdict.verdict,
        "valid_until": verdict.valid_until,
        "reasons": list(verdict.reasons),
    }
    Output(output).result(data, in_words(ref, verdict))
    return 0 if verdict.allowed else EXIT_DENIED


def in_words(ref: str, verdict: Verdict) -> str:
    """The verdict as lines for a person."""
    lines = [f"{ref} ({verdict.digest}): {verdict.verdict}"]
    lines += [f"  - {r.get('code')}: {r.get('message')}" for r in verdict.reasons]
    if verdict.valid_until:
        lines.append(f"  until {verdict.valid_until} if nothing else changes")
    return "\n".join(lines)
