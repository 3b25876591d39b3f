"""`xumi validate`: is xumi.yaml right, and is what it names there? Runs none of the model's code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from berth.authoring import manifest as manifests
from berth.authoring import project
from berth.cli.output import Format, Output, OutputOption, human_size
from berth.errors import ManifestFileInvalid


def validate(
    path: Annotated[Path, typer.Argument(help="Folder with xumi.yaml, or the file itself.")] = Path("."),
    file_only: Annotated[
        bool, typer.Option("--file-only", help="Check only the file, not the code and weights it names.")
    ] = False,
    allow_secrets: Annotated[
        bool, typer.Option("--allow-secrets", help="Do not refuse files that look like secrets.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of xumi.yaml and stop.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Check xumi.yaml, and that the code, requirements and weights it names are there.

    Every problem is shown with its line and column and what to write instead.

    Example: xumi validate ./file-type
    """
    out = Output(output)
    if schema:
        Output(Format.json).result(manifests.schema())
        return
    found = manifests.load(path)
    manifest = found.manifest
    result = {"valid": True, "name": manifest.name, "version": manifest.version}
    text = f"{manifest.name}:{manifest.version} is valid."
    if not file_only and found.path is not None:
        root = found.path.parent.resolve()
        problems = project.check_entry(root, manifest)
        if problems:
            raise ManifestFileInvalid("\n".join(problems), hint="Change xumi.yaml or the files.")
        sorted_out = project.collect(root, manifest, allow_secrets=allow_secrets)
        for warning in sorted_out.warnings:
            out.note(f"warning: {warning}")
        weight_bytes = sum(w.source.stat().st_size for w in sorted_out.weights)
        result |= {
            "code_files": len(sorted_out.code),
            "weight_files": len(sorted_out.weights),
            "weight_bytes": weight_bytes,
            "warnings": list(sorted_out.warnings),
        }
        text += (
            f"\n  code     {len(sorted_out.code)} files, {human_size(sum(e.size for e in sorted_out.code))}"
            f"\n  weights  {len(sorted_out.weights)} files, {human_size(weight_bytes)}"
        )
    out.result(result, text)
