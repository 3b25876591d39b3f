"""`xumi where`: the address with which stock clients and run-times reach a version, and where else it lives."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from berth.cli.output import Format, Output, OutputOption, human_size
from berth.client import Berth
from berth.client.address import parse_version
from berth.oci.version import to_tag


def where(
    ref: Annotated[str, typer.Argument(help="project/model:version, alias, latest or range.")],
    output: OutputOption = Format.text,
) -> None:
    """Print the address that runs or pulls a version: `docker pull $(xumi where ml/demo:production)`.

    It names the digest, so it means the same bytes for ever, whatever the alias points at later. Below it: how much of
    the version the depot holds, the other registries that hold it, and which of them is asked for what is not here.

    Example: xumi where acme/file-type:production
    """
    address, _ = parse_version(ref, default="latest")
    with Berth.from_settings() as berth:
        version = berth.versions.show(ref)
        repository = f"{berth.host}/{address.repository}"
        exact = f"{address.repository}:{version['version']}"
        placements = berth.versions.placements(exact)
        found = berth.versions.where(exact)
    facts: dict[str, Any] = {
        "reference": f"{repository}@{version['digest']}",
        "digest": version["digest"],
        "version": version.get("version"),
        "tagged": f"{repository}:{to_tag(version['version'])}" if version.get("version") else None,
        "placements": placements,
        **found,
    }
    out = Output(output)
    out.result(facts, facts["reference"])
    if out.json:
        return
    depot = found["depot"]
    out.note(
        f"{depot['state']}: {human_size(depot['bytes_here'])} of {human_size(depot['bytes'])} are in the depot "
        f"({depot['blobs_here']} of {depot['blobs']} blobs)."
    )
    health = {(place["registry"], place["repository"]): place for place in found["registries"]}
    for place in placements:
        state = health.get((place["registry"], place["repository"]), {})
        out.note(f"{place['state']} at {place['registry']} as {place['repository']}{_health(state)}{_told(place)}")
    if found["next"] and depot["blobs_here"] < depot["blobs"]:
        out.note(f"{found['next']} is asked first for the rest.")


def _health(place: dict[str, Any]) -> str:
    words = ["found there"] if place.get("found") else []
    if not place.get("healthy", True):
        words.append(f"left alone for {place['retry_in']:g} s")
    if not place.get("trusted", True):
        words.append("it sent wrong bytes lately")
    if place.get("latency_ms") is not None:
        words.append(f"{place['latency_ms']:g} ms")
    return f" ({', '.join(words)})" if words else ""


def _told(place: dict[str, Any]) -> str:
    """How far a copy is that has not arrived, what went wrong and when it is tried again."""
    told = f": {place['error']}" if place["error"] else ""
    if place["state"] in ("pending", "failed") and place.get("blobs_total"):
        told += f" ({place['blobs_done']} of {place['blobs_total']} blobs, "
        told += f"{human_size(place['bytes_done'])} of {human_size(place['bytes_total'])} are there)"
    if place.get("next_try_at"):
        told += f" Next try at {place['next_try_at']}."
    return told
