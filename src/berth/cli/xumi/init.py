"""`xumi init`: a first xumi.yaml, from what is in the folder or from a template."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from berth.authoring import templates
from berth.cli.output import Format, Output, OutputOption
from berth.oci.reference import ModelName

# What an empty folder starts with when nobody says what it is going to hold.
FALLBACK = "onnx"


def init(
    model: Annotated[str, typer.Argument(help="Name of the new model, as project/model.", metavar="PROJECT/MODEL")],
    template: Annotated[
        str | None,
        typer.Option(
            "--template", "-t", help=f"Start from one of: {', '.join(templates.names())}; default: look at the folder."
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--directory",
            "-d",
            help="Folder to look at and write to; default: this one if it holds a model, else a new one of that name.",
        ),
    ] = None,
    author: Annotated[str, typer.Option("--author", help="First author.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Start a model: from the weights and code in a folder, or from a template.

    Without --template the folder is looked at: weights (safetensors, GGUF, ONNX, TorchScript, PyTorch, pickle,
    SavedModel), classes with predict(), requirements, a Hugging Face card, Kitfile, cog.yaml, MLmodel. Only headers
    are read; nothing is imported or unpickled. xumi.yaml says what was found and what is a guess. Nothing that exists
    is replaced without --force.

    Example: xumi init acme/file-type --directory ./file-type
    """
    out = Output(output)
    name = ModelName.parse(model)
    facts: dict[str, Any] = {"name": str(name), "found": [], "guessed": [], "remarks": []}
    if template is None and (directory is None or directory.is_dir()):
        from berth.authoring import detect, detect_draft

        folder = directory or Path()
        seen = detect.look(folder)
        if seen.worth_a_draft:
            draft = detect_draft.draft(name, seen, author=author)
            files = templates.write_files(draft.files, folder, force=force)
            facts |= {"found": draft.found, "guessed": draft.guessed, "remarks": seen.remarks}
            facts |= {"template": draft.template}
            return _tell(out, facts, folder, files)
        facts["remarks"] = seen.remarks
    chosen = template or FALLBACK
    folder = directory or Path(name.name)
    if template is None:
        out.note(f"No weights or code that is known here; starting from the template {chosen}.")
    files = templates.write(name, chosen, folder, author=author, force=force)
    return _tell(out, {**facts, "template": chosen}, folder, files)


def _tell(out: Output, facts: dict[str, Any], folder: Path, files: list[Path]) -> None:
    lines = [f"{word} {line}" for word, key in (("found", "found"), ("guess", "guessed")) for line in facts[key]]
    for remark in facts["remarks"]:
        out.note(f"note: {remark}")
    result = {**facts, "directory": str(folder), "files": [str(f) for f in files]}
    out.result(result, "\n".join([*lines, *(f"wrote {f}" for f in files)]))
    if not facts["found"] and (folder / "weights").is_dir():
        out.step(f"Put the weights into {folder / 'weights'}")
    if facts["guessed"]:
        out.step(f"Look over {folder / 'xumi.yaml'}")
    out.step(f"xumi validate {folder}")
    out.step(f"xumi build {folder}")
