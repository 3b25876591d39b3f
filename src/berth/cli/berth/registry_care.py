"""`berth registry health|usage|check|artifact|scan|report|gc`: how a registry is, and what it knows of a version."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption, YesOption, confirm, human_size
from berth.client import Berth
from berth.client.session import Json
from berth.errors import RemoteError, Unavailable

Name = Annotated[str, typer.Argument(help="Name of the registry here.")]
Project = Annotated[str, typer.Argument(help="Project of ours.")]
Ref = Annotated[str, typer.Argument(help="project/model:version, by our names.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for its end.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="With --wait: seconds to wait at most.")]
EVERY_SECONDS = 2.0


def health(name: Name, output: OutputOption = Format.text) -> None:
    """Ask a registry how it is. Exit code 0: healthy, 1: not.

    Asked with our credentials, once: does it answer, does it take them, can something be written?

    Example: berth registry health harbor
    """
    with Berth.from_settings() as berth:
        found = berth.registries.health(name)
    parts = [f"{part}: {state}" for part, state in sorted(found["components"].items())]
    mode = ["It is read-only: nothing can be published there."] if found.get("read_only") else []
    version = f" ({found['version']})" if found.get("version") else ""
    space = [f"{human_size(found['free_bytes'])} free."] if found.get("free_bytes") is not None else []
    word = "healthy" if found["healthy"] else "NOT healthy"
    after = ", answered in" if found["healthy"] else ", after"
    took = f"{after} {found['milliseconds']} ms" if found.get("milliseconds") is not None else ""
    Output(output).result(found, "\n".join([f"{name} is {word}{version}{took}.", *parts, *space, *mode]))
    if not found["healthy"]:
        raise typer.Exit(1)


def usage(name: Name, project: Project, output: OutputOption = Format.text) -> None:
    """Show how full the place of a project is there, in all and by repository where the registry tells.

    Example: berth registry usage harbor vision
    """
    with Berth.from_settings() as berth:
        found = berth.registries.usage(name, project)
    limit = "no limit" if found["limit"] is None else f"of {human_size(found['limit'])}"
    used = "-" if found["used"] is None else human_size(found["used"])
    out = Output(output)
    out.result(found, f"{used} used, {limit}.")
    if not out.json and found.get("repositories"):
        rows = [{**row, "bytes": row["used"]} for row in found["repositories"]]
        out.table(rows, ["repository", "bytes", "images", "tags"])


def check(name: Name, ref: Ref, output: OutputOption = Format.text) -> None:
    """Say how a version would be called there, and whether it fits.

    Example: berth registry check harbor vision/detector:1.2.0
    """
    with Berth.from_settings() as berth:
        found = berth.registries.check(name, ref)
    out = Output(output)
    out.result(found, f"{found['repository']}:{found['tag']}")
    if not found["checked"]:
        out.note(f"Only the name was checked: {ref} is not in the depot.")


def artifact(name: Name, ref: Ref, output: OutputOption = Format.text) -> None:
    """Show what a registry knows of a version: its type there, pulls, signatures, the documents it shows.

    Example: berth registry artifact harbor vision/detector:1.2.0
    """
    with Berth.from_settings() as berth:
        Output(output).result(berth.registries.artifact(name, ref))


def scan(
    name: Name,
    ref: Ref,
    wait: Wait = False,
    timeout: Timeout = 600,
    output: OutputOption = Format.text,
) -> None:
    """Have a registry scan a version with its own scanner. Verdicts here never rest on that.

    Example: berth registry scan harbor vision/detector:1.2.0 --wait
    """
    out = Output(output)
    with Berth.from_settings() as berth:
        started = berth.registries.scan(name, ref)["started"]
        if not started:
            out.note("A scan was running already, or ran just now.")
        found = berth.registries.scan_state(name, ref)
        if wait:
            found = until(lambda: berth.registries.scan_state(name, ref), timeout=timeout, what="The scan")
    counts = ", ".join(f"{count} {level}" for level, count in sorted(found["counts"].items())) or "nothing found"
    text = f"{found['state']}: {counts}" if found["state"] == "done" else str(found["state"])
    out.result(found, text)
    if found["state"] == "failed":
        raise RemoteError(f"{name} could not scan {ref}.", hint=f"berth registry report {name} {ref} --log")
    out.step(f"See what it found: berth registry report {name} {ref}")


def report(
    name: Name,
    ref: Ref,
    log: Annotated[bool, typer.Option("--log", help="What its scanner wrote, instead of what it found.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Show what a registry's own scan found.

    Example: berth registry report harbor vision/detector:1.2.0
    """
    out = Output(output)
    with Berth.from_settings() as berth:
        if log:
            text = berth.registries.scan_log(name, ref)
            out.result({"log": text}, text)
            return
        found = berth.registries.report(name, ref)
    if found["report"] is None:
        out.note(f"There is no report of {ref}. berth registry scan {name} {ref}")
    out.result(found)


def gc(
    name: Name,
    remove: Annotated[bool, typer.Option("--remove", help="Really remove; without it a dry run.")] = False,
    yes: YesOption = False,
    wait: Wait = False,
    timeout: Timeout = 600,
    run: Annotated[str | None, typer.Option("--run", help="Show this run instead of starting one.")] = None,
    log: Annotated[bool, typer.Option("--log", help="With --run: what it wrote.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Start a registry's own clean-up, then with --remove.

    Example: berth registry gc harbor --wait
    """
    out, dry = Output(output), ""
    if remove and not yes and run is None:
        confirm(f"Remove what {name} no longer needs?")
    with Berth.from_settings() as berth:
        if run is not None and log:
            text = berth.registries.collected_log(name, run)
            out.result({"run": run, "log": text}, text)
            return
        if run is None:
            run = str(berth.registries.collect(name, dry_run=not remove)["run"])
            dry = "" if remove else " (a dry run)"
        number = run
        found = berth.registries.collected(name, number)
        if wait:
            found = until(lambda: berth.registries.collected(name, number), timeout=timeout, what="The clean-up")
    out.result(found, f"{found['run']}: {found['state']}{dry}")
    out.step(f"See what it did: berth registry gc {name} --run {found['run']} --log")
    if found["state"] == "failed":
        raise RemoteError(f"The clean-up {found['run']} of {name} failed.")


def until(ask: Callable[[], Json], *, timeout: float, what: str) -> Json:
    """Asks until it is no longer running. Raises Unavailable after `timeout` seconds; it goes on then."""
    deadline = time.monotonic() + timeout
    while (found := ask())["state"] == "running":
        if time.monotonic() >= deadline:
            raise Unavailable(f"{what} goes on after {timeout:g} seconds.", hint="Look again later, or wait longer.")
        time.sleep(EVERY_SECONDS)
    return found
