"""`berth member`: who may do what in a project."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption, YesOption, confirm, counted
from berth.client import Berth

Project = Annotated[str, typer.Option("--project", help="The project.")]
User = Annotated[str, typer.Argument(help="Name of the user.")]


def set_(
    user: User,
    project: Project,
    role: Annotated[str, typer.Option("--role", help="guest, reader, developer, reviewer, maintainer or admin.")],
    output: OutputOption = Format.text,
) -> None:
    """Give a user a role in a project. A lower one than before revokes the user's tokens above it.

    Example: berth member set alice --project vision --role developer
    """
    with Berth.from_settings() as berth:
        answer = berth.members.set(project, user, role)
    Output(output).result(answer, f"{user} is {role} in project {project}.")


def ls(project: Project, output: OutputOption = Format.text) -> None:
    """List a project's members.

    Example: berth member ls --project vision
    """
    with Berth.from_settings() as berth:
        rows = berth.members.ls(project)
    Output(output).table(rows, ["user", "kind", "role", "disabled"], empty=f"Project {project} has no members.")


def rm(user: User, project: Project, yes: YesOption = False, output: OutputOption = Format.text) -> None:
    """Take a user's role in a project away, and the tokens limited to it.

    Example: berth member rm alice --project vision
    """
    with Berth.from_settings() as berth:
        if not yes:
            role = next((row["role"] for row in berth.members.ls(project) if row["user"] == user), "role")
            limited = [row for row in berth.tokens.ls() if (row["user"], row["project"]) == (user, project)]
            ending = [row for row in limited if row["revoked_at"] is None]
            tokens = f" That ends {counted(len(ending), 'token')} limited to it." if ending else ""
            confirm(f"Take {role} in project {project} from {user}?{tokens}")
        berth.members.rm(project, user)
    Output(output).result({"removed": user}, f"{user} has no role in project {project} any more.")
