"""`berth export`: versions with their evidence as one file, for a place that no network reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption, human_size
from berth.client import Berth
from berth.client.archive_file import open_archive
from berth.errors import InvalidInput


def export(
    refs: Annotated[
        list[str], typer.Argument(metavar="REF...", help="project/model:version, alias, latest, @digest, or a range.")
    ],
    file: Annotated[Path | None, typer.Option("--file", "-f", metavar="FILE", help="The file to write.")] = None,
    since: Annotated[
        list[str] | None,
        typer.Option(
            "--since",
            metavar="FILE|REF",
            help="What the other side has: an earlier export, a list of versions (one a line), or a version. "
            "Its blobs are left out; repeatable.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the file would hold.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Write versions, with signatures and reports, into one file.

    The file is a tar of an OCI image layout: skopeo reads it (`oci-archive:demo.tar:ml/demo:1.0.0`). The same
    versions give the same bytes, and a download that broke off goes on when the command is run again.

    Example: berth export 'ml/demo:^1' -f demo.tar
    """
    out = Output(output)
    known = _versions_of(since or [])
    with Berth.from_settings() as berth:
        if dry_run:
            plan = berth.archives.plan(refs, since=known)
            out.result(plan, _in_words(plan, "would be"))
            return
        if file is None:
            raise InvalidInput("Which file?", hint="Add -f FILE.")
        with out.progress() as progress:
            done = berth.archives.export(refs, file, since=known, force=force, progress=progress)
    data = {**done.plan, "file": str(done.path), "bytes_transferred": done.bytes_transferred}
    out.result(data, f"{_in_words(done.plan, 'are')}\n  {done.path}, every digest checked")
    out.step(f"On the other side: berth import {file.name}")


def _versions_of(given: list[str]) -> list[str]:
    """The versions that files, lists and references name; those of files by digest."""
    found: list[str] = []
    for text in given:
        path = Path(text)
        if not path.is_file():
            found.append(text)
            continue
        with path.open("rb") as file:
            is_archive = file.read(10) == b"oci-layout"
        if is_archive:
            found += [f"{v.repository}@{v.digest}" for v in open_archive(path).contents.versions]
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return found


def _in_words(plan: dict[str, object], verb: str) -> str:
    versions = plan["versions"]
    names = [str(v["name"]) for v in versions] if isinstance(versions, list) else []
    size = human_size(int(str(plan["size"])))
    lines = [
        f"{len(names)} versions, {plan['evidence']} signatures and reports {verb} in it; {size}",
        *(f"  {name}" for name in names),
    ]
    if plan["blobs_left_out"]:
        lines.append(f"  left out: {plan['blobs_left_out']} blobs, {human_size(int(str(plan['bytes_left_out'])))}")
    return "\n".join(lines)
