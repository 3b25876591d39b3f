"""`xumi pull`: an admitted version becomes a folder: xumi.yaml, code/, weights/."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from berth.cli.output import Format, LongOutputOption, Output, human_size
from berth.client import Berth


def pull(
    ref: Annotated[str, typer.Argument(help="project/model:version, alias, latest, range or @digest.")],
    into: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to make.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the folder if it exists.")] = False,
    weights: Annotated[bool, typer.Option("--weights/--no-weights", help="Whether to pull the weights.")] = True,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=32, help="Files fetched at the same time.")] = 4,
    output: LongOutputOption = Format.text,
) -> None:
    """Pull an admitted version into a folder: xumi.yaml, code/ and weights/.

    Every digest is checked, and the folder appears only when all of it is there. A version that is not admitted is
    refused with every reason.

    Example: xumi pull acme/file-type:^1.0 -o file-type
    """
    out = Output(output)
    with Berth.from_settings() as berth, out.progress() as progress:
        pulled = berth.pull(ref, into, force=force, weights=weights, progress=progress, parallel=parallel)
    files = pulled.files
    data = {
        "repository": pulled.repository,
        "digest": pulled.digest,
        "directory": os.fspath(files.destination),
        "code": list(files.code),
        "weights": list(files.weights),
        "weight_bytes": files.weight_bytes,
    }
    out.result(
        data,
        f"Pulled {pulled.repository}@{pulled.digest}\n  into {into}: {len(files.code)} code files, "
        f"{len(files.weights)} weight files ({human_size(files.weight_bytes)})",
    )
