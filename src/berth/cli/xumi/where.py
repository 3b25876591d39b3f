"""`xumi where`: the address with which stock clients and run-times reach a version, and where else it lives."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from berth.cli.output import Format, Output, OutputOption
from berth.client import Berth
from berth.client.address import parse_version
from berth.oci.version import to_tag


def where(
    ref: Annotated[str, typer.Argument(help="project/model:version, alias, latest or range.")],
    output: OutputOption = Format.text,
) -> None:
    """Print the address that runs or pulls a version: `docker pull $(xumi where ml/demo:production)`.

    It names the digest, so it means the same bytes for ever, whatever the alias points at later. Other registries that
    hold the version are named besides, with the state of the copy there.

    Example: xumi where acme/file-type:production
    """
    address, _ = parse_version(ref, default="latest")
    with Berth.from_settings() as berth:
        version = berth.versions.show(ref)
        repository = f"{berth.host}/{address.repository}"
        placements = berth.versions.placements(f"{address.repository}:{version['version']}")
    facts: dict[str, Any] = {
        "reference": f"{repository}@{version['digest']}",
        "digest": version["digest"],
        "version": version.get("version"),
        "tagged": f"{repository}:{to_tag(version['version'])}" if version.get("version") else None,
        "placements": placements,
    }
    out = Output(output)
    out.result(facts, facts["reference"])
    if not out.json:
        for place in placements:
            told = f": {place['error']}" if place["error"] else ""
            out.note(f"{place['state']} at {place['registry']} as {place['repository']}{told}")
