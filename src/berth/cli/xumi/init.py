"""`xumi init`: a folder with xumi.yaml and code to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from berth.authoring import templates
from berth.cli.output import Format, Output, OutputOption
from berth.oci.reference import ModelName


def init(
    model: Annotated[str, typer.Argument(help="Name of the new model, as project/model.", metavar="PROJECT/MODEL")],
    template: Annotated[
        str, typer.Option("--template", "-t", help=f"What to start from: {', '.join(templates.names())}.")
    ] = "onnx",
    directory: Annotated[
        Path | None, typer.Option("--directory", "-d", help="Folder to write; default: a new one named like the model.")
    ] = None,
    author: Annotated[str, typer.Option("--author", help="First author.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Start a new model in a folder.

    Writes xumi.yaml, code that serves the model, and .xumiignore. Nothing that exists is replaced without --force.

    Example: xumi init acme/file-type --template onnx
    """
    out = Output(output)
    name = ModelName.parse(model)
    folder = directory or Path(name.name)
    files = templates.write(name, template, folder, author=author, force=force)
    out.result(
        {"name": str(name), "template": template, "directory": str(folder), "files": [str(f) for f in files]},
        "\n".join(f"wrote {f}" for f in files),
    )
    if (folder / "weights").is_dir():
        out.step(f"Put the weights into {folder / 'weights'}")
    out.step(f"xumi validate {folder}")
    out.step(f"xumi build {folder}")
