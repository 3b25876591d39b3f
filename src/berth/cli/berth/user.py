"""`berth user`: people, robots and other principals."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption
from berth.client import Berth

Name = Annotated[str, typer.Argument(help="Name of the user.")]


def add(
    name: Name,
    kind: Annotated[str, typer.Option("--kind", help="user, robot, scanner, sync or ci.")] = "user",
    global_role: Annotated[
        str | None, typer.Option("--global-role", help="auditor or admin; without it only roles in projects.")
    ] = None,
    output: OutputOption = Format.text,
) -> None:
    """Add a user or a robot.

    Example: berth user add builder --kind robot
    """
    out = Output(output)
    with Berth.from_settings() as berth:
        answer = berth.users.add(name, kind=kind, global_role=global_role)
    out.result(answer, f"Added {answer['kind']} {name}.")
    out.step(f"Make a token to sign in with: berth token create --user {name}")


def ls(output: OutputOption = Format.text) -> None:
    """List the users.

    Example: berth user ls
    """
    with Berth.from_settings() as berth:
        rows = berth.users.ls()
    Output(output).table(rows, ["name", "kind", "global_role", "disabled", "created_at"], empty="There are no users.")


def disable(name: Name, output: OutputOption = Format.text) -> None:
    """Disable a user; its tokens stop working at once.

    Example: berth user disable alice
    """
    with Berth.from_settings() as berth:
        answer = berth.users.disable(name)
    Output(output).result(answer, f"Disabled {name}; its tokens work no more.")


def enable(name: Name, output: OutputOption = Format.text) -> None:
    """Let a disabled user in again, with the tokens it had.

    Example: berth user enable alice
    """
    with Berth.from_settings() as berth:
        answer = berth.users.disable(name, disabled=False)
    Output(output).result(answer, f"Enabled {name}.")
