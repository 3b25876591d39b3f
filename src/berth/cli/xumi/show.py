"""`xumi show`: what is in one local version?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from berth.authoring.describe import describe
from berth.authoring.repository import LocalRepository
from berth.cli.output import Format, Output, OutputOption, human_size
from berth.client.credentials import environment


def show(
    ref: Annotated[str, typer.Argument(help="project/model:version, project/model (highest), or a digest.")],
    manifest: Annotated[bool, typer.Option("--manifest", help="Print the xumi.yaml it was built from.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Show one version of the local repository: images, layers, checkpoints, manifest.

    Example: xumi show acme/file-type:1.0.0
    """
    out = Output(output)
    found = describe(LocalRepository(environment().home), ref)
    if manifest:
        out.result({"manifest": found["manifest_text"]}, str(found["manifest_text"]).rstrip("\n"))
        return
    out.result(found, "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['reference'] or found['digest']}", f"  digest   {found['digest']}"]
    lines.append(f"  size     {human_size(found['size'])}")
    for key in ("title", "description", "licenses", "authors", "revision"):
        if found.get(key):
            lines.append(f"  {key:<8} {' '.join(str(found[key]).split())[:300]}")
    for image in found["images"]:
        kind = "image with weights" if image["bundle"] else "image"
        lines.append(f"{kind} {image['platform']}  {image['digest']}")
        lines += [f"  {x['kind'] or 'base':<9} {human_size(x['size']):>11}  {x['digest']}" for x in image["layers"]]
    for checkpoint in found["checkpoints"]:
        lines.append(f"checkpoint {checkpoint['name']} at {checkpoint['mount']}  {checkpoint['digest']}")
        for file in checkpoint["files"]:
            where = "" if file["present"] else "  MISSING"
            lines.append(f"  {human_size(file['size']):>11}  {file['path']}  {file['digest']}{where}")
    for benchmark in found["benchmarks"]:
        data = benchmark.get("dataset")
        lines.append(f"benchmark {benchmark['name']}" + (f" on {data['reference']}" if data else ""))
        for metric in benchmark["metrics"]:
            sign = "≥" if metric["better"] == "higher" else "≤"
            goal = f"{sign} {metric['goal']:g}" if "goal" in metric else f"{metric['better']} is better"
            lines.append(f"  {metric['name']:<9} {goal} {metric.get('unit', '')}".rstrip())
    return lines
