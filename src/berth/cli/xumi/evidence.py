"""`xumi evidence`: what is known about a version, and each report in full."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption, human_size
from berth.client import Berth
from berth.client.session import Json
from berth.errors import InvalidInput, NotFound


def ls(
    ref: Annotated[str, typer.Argument(help="project/model:version, alias or @digest.")],
    output: OutputOption = Format.text,
) -> None:
    """List the evidence about a version: every scan and check, newest first.

    Example: xumi evidence ls acme/file-type:1.0.0
    """
    with Berth.from_settings() as berth:
        items = berth.versions.evidence(ref)
    out = Output(output)
    if not out.json:
        items = [{**item, "summary": in_short(item.get("summary"))} for item in items]
    columns = ["id", "kind", "status", "tool", "tool_version", "finished_at", "summary"]
    out.table(items, columns, empty="There is no evidence about it yet.")


def report(
    ref: Annotated[str, typer.Argument(help="project/model:version, alias or @digest.")],
    which: Annotated[str, typer.Argument(metavar="ID|KIND", help="The evidence's id, or its kind for the newest one.")],
    file: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file; default: stdout.")] = None,
) -> None:
    """Get one report in full, byte for byte as the tool wrote it.

    Example: xumi evidence report acme/file-type:1.0.0 vulnerabilities -o trivy.json
    """
    with Berth.from_settings() as berth:
        chosen = choose(berth.versions.evidence(ref), which)
        body, media_type = berth.versions.report(ref, chosen["id"])
    if file is None:
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
        return
    try:
        file.write_bytes(body)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}.") from error
    Output().note(f"{os.fspath(file)}: {human_size(len(body))}, {media_type}")


def in_short(summary: object) -> str:
    """A scan's summary in a few words: how many findings of which severity, what stood in its way."""
    if not isinstance(summary, dict):
        return str(summary or "")
    parts = []
    severities = summary.get("severities")
    for name, counts in severities.items() if isinstance(severities, dict) else ():
        total = counts.get("total", 0) if isinstance(counts, dict) else counts
        if total:
            parts.append(f"{total} {str(name).lower()}")
    for name in ("malicious", "suspicious", "problems"):
        found = summary.get(name)
        if isinstance(found, list) and found:
            codes = dict.fromkeys(str(f.get("code")) for f in found if isinstance(f, dict) and f.get("code"))
            parts.append(f"{len(found)} {name}" + (f" ({', '.join(codes)})" if codes else ""))
    return ", ".join(parts) or "nothing found"


def choose(items: list[Json], which: str) -> Json:
    """The item with that id, or the newest of that kind. Raises NotFound naming the kinds there are."""
    for item in items:
        if str(item.get("id")) == which:
            return item
    of_kind = [item for item in items if item.get("kind") == which]
    if of_kind:
        return max(of_kind, key=lambda item: str(item.get("finished_at") or item.get("started_at") or ""))
    kinds = ", ".join(sorted({str(item.get("kind")) for item in items}))
    raise NotFound(
        f"There is no evidence {which!r}.", hint=f"There is: {kinds}." if kinds else "There is none at all yet."
    )
