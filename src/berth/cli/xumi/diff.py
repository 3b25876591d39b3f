"""`xumi diff`: what changed between two versions, or since a version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from berth.authoring.compare import Change, Comparison, compare_folder, compare_versions
from berth.authoring.manifest import FILE_NAME
from berth.authoring.repository import LocalRepository
from berth.cli.output import Format, Output, OutputOption, human_size
from berth.client.credentials import environment

_WIDEST = 60


def diff(
    old: Annotated[
        str, typer.Argument(help="project/model:version, project/model (highest), or a digest.", metavar="A")
    ],
    new: Annotated[
        str, typer.Argument(help="Another version of the local repository, or a folder with xumi.yaml.", metavar="B")
    ] = ".",
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 1 when there is a difference, as `diff` does.")
    ] = False,
    output: OutputOption = Format.text,
) -> None:
    """Show what is different: manifest, layers, code files and weights, and how much a push would send again.

    Both versions are in the local repository; without B the folder one is in is compared. A folder is read, not built.

    Example: xumi diff acme/file-type:1.0.0 acme/file-type:1.1.0

    Example: xumi diff acme/file-type:1.0.0 .
    """
    out = Output(output)
    repository = LocalRepository(environment().home)
    path = Path(new)
    # A folder by its look: `acme/file-type` is a version unless such a folder holds a model.
    if (
        new in (".", "..")
        or new.startswith(("./", "../", "/"))
        or (path / FILE_NAME).is_file()
        or path.name == FILE_NAME
    ):
        found = compare_folder(repository, old, path)
    else:
        found = compare_versions(repository, old, new)
    out.result(found.to_json(), "\n".join(_lines(found)))
    if exit_code and not found.same:
        raise typer.Exit(1)


def _lines(found: Comparison) -> list[str]:
    lines = [f"{found.old} → {found.new}"]
    if found.same:
        lines.append("no difference")
    for title, changes in (
        ("manifest", found.manifest),
        ("layers", found.layers),
        ("code", found.code),
        ("weights", found.checkpoints),
    ):
        if changes:
            lines += [title, *(f"  {_line(change, of_fields=title == 'manifest')}" for change in changes)]
    about = "" if found.resend_is_exact else "about "
    lines.append(f"to send again: {about}{human_size(found.resend)}")
    return lines + [f"note: {note}" for note in found.notes]


def _line(change: Change, *, of_fields: bool) -> str:
    sign = "+" if change.old is None else "-" if change.new is None else "~"
    old, new = (_value(v, of_fields=of_fields) for v in (change.old, change.new))
    if sign == "~":
        return f"~ {change.what}  {old} → {new}"
    return f"{sign} {change.what}  {new if sign == '+' else old}"


def _value(value: Any, *, of_fields: bool) -> str:
    if not of_fields and isinstance(value, dict):
        return human_size(value["size"])
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"
