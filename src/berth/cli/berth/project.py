"""`berth project`: who shares models, and under which policy."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from berth.cli.output import Column, Format, Output, OutputOption, YesOption, confirm, counted
from berth.cli.sizes import size
from berth.client import Berth
from berth.errors import InvalidInput

Name = Annotated[str, typer.Argument(help="Name of the project.")]
_COLUMNS: list[Column] = ["name", ("policy_preset", "policy"), "role", "description"]


def create(
    name: Name,
    policy: Annotated[
        str, typer.Option("--policy", help="What versions must pass: open, scanned or strict.")
    ] = "strict",
    description: Annotated[str, typer.Option("--description", help="What it is for.")] = "",
    output: OutputOption = Format.text,
) -> None:
    """Create a project.

    Example: berth project create vision --policy scanned
    """
    out = Output(output)
    with Berth.from_settings() as berth:
        answer = berth.projects.create(name, policy=policy, description=description)
    out.result(answer, f"Created project {name} with policy {answer['policy_preset']}.")
    out.step(f"Give someone a role: berth member set USER --project {name} --role developer")


def ls(output: OutputOption = Format.text) -> None:
    """List the projects you can see.

    Example: berth project ls -o json
    """
    with Berth.from_settings() as berth:
        rows = berth.projects.ls()
    Output(output).table(rows, _COLUMNS, empty="You see no project. Ask a maintainer for a role in one.")


def show(name: Name, output: OutputOption = Format.text) -> None:
    """Show one project.

    Example: berth project show vision
    """
    with Berth.from_settings() as berth:
        answer = berth.projects.show(name)
    Output(output).result(answer)


def set_(
    name: Name,
    policy: Annotated[str | None, typer.Option("--policy", help="open, scanned or strict.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="What it is for.")] = None,
    home: Annotated[str | None, typer.Option("--home", help="Registry that published versions live in.")] = None,
    bandwidth: Annotated[
        int | None,
        typer.Option(
            "--bandwidth",
            metavar="SIZE",
            parser=size(),
            help="Bytes per second to the home, e.g. 20MB; 0 = no limit.",
        ),
    ] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, help="Blobs that move to the home at once.")
    ] = None,
    output: OutputOption = Format.text,
) -> None:
    """Change a project's policy, description, home or the limits of the copy there. A new policy counts at once.

    Example: berth project set vision --home harbor --bandwidth 20MB --parallel 4
    """
    given: dict[str, Any] = {"policy": policy, "description": description, "home": home}
    changes = {key: value for key, value in given.items() if value is not None}
    limits = {"bytes_per_second": bandwidth, "parallel_blobs": parallel}
    if not changes and bandwidth is None and parallel is None:
        raise InvalidInput(
            "Nothing to change.", hint="Give --policy, --description, --home, --bandwidth or --parallel."
        )
    with Berth.from_settings() as berth:
        if bandwidth is not None or parallel is not None:
            now = berth.projects.show(name)["publishing"]
            said = {key: value for key, value in limits.items() if value is not None}
            changes["publishing"] = {key: value for key, value in {**now, **said}.items() if value}
        answer = berth.projects.set(name, **changes)
    Output(output).result(answer, f"Changed {', '.join(changes)} of project {name}.")


def rm(name: Name, yes: YesOption = False, output: OutputOption = Format.text) -> None:
    """Remove an empty project.

    Example: berth project rm vision
    """
    with Berth.from_settings() as berth:
        if not yes:
            members, keys = len(berth.members.ls(name)), len(berth.keys.ls(name))
            confirm(f"Remove project {name} with {counted(members, 'role')} and {counted(keys, 'trusted key')}?")
        berth.projects.rm(name)
    Output(output).result({"removed": name}, f"Removed project {name}.")
