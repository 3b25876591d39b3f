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
            out.note(f"{place['state']} at {place['registry']} as {place['repository']}{_told(place)}")


def _told(place: dict[str, Any]) -> str:
    """How far a copy is that has not arrived, what went wrong and when it is tried again."""
    told = f": {place['error']}" if place["error"] else ""
    if place["state"] in ("pending", "failed") and place["blobs_total"]:
        told += f" ({place['blobs_done']} of {place['blobs_total']} blobs, "
        told += f"{place['bytes_done']} of {place['bytes_total']} bytes are there)"
    if place["next_try_at"]:
        told += f" Next try at {place['next_try_at']}."
    return told
