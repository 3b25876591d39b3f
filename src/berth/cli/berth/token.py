"""`berth token`: what programs sign in with."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption, YesOption, confirm
from berth.client import Berth
from berth.client.session import Json


def create(
    user: Annotated[str, typer.Option("--user", help="Whose token it is.")],
    project: Annotated[str | None, typer.Option("--project", help="Limit it to this project; needs --role.")] = None,
    role: Annotated[str | None, typer.Option("--role", help="Exactly this role in the project.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What it is for.")] = None,
    expires_in_days: Annotated[
        int | None, typer.Option("--expires-in-days", help="Days until it ends; without it never.")
    ] = None,
    output: OutputOption = Format.text,
) -> None:
    """Create a token; it is shown once.

    Example: berth token create --user builder --project vision --role developer --expires-in-days 90
    """
    out = Output(output)
    with Berth.from_settings() as berth:
        answer = berth.tokens.create(user, project=project, role=role, name=name, expires_in_days=expires_in_days)
    # Only the token goes to stdout, so that a script can take it from there.
    out.result(answer, str(answer["token"]))
    what = f"role {role} in project {project}" if project else f"all rights of {user}"
    out.step(f"Token {answer['id']} of {user}, with {what}. Keep it now: it is never shown again.")


def ls(output: OutputOption = Format.text) -> None:
    """List your tokens and those you manage.

    Example: berth token ls
    """
    with Berth.from_settings() as berth:
        rows = berth.tokens.ls()
    columns = ["id", "user", "name", "project", "role", "created_at", "expires_at", "revoked_at"]
    Output(output).table(rows, columns, empty="There are no tokens.")


def revoke(
    token_id: Annotated[int, typer.Argument(metavar="ID", help="Number of the token, as `berth token ls` shows it.")],
    yes: YesOption = False,
    output: OutputOption = Format.text,
) -> None:
    """Revoke a token at once.

    Example: berth token revoke 17
    """
    with Berth.from_settings() as berth:
        if not yes:
            found = next((row for row in berth.tokens.ls() if row["id"] == token_id), None)
            confirm(f"Revoke token {token_id}{_described(found)}? What signs in with it is refused at once.")
        berth.tokens.revoke(token_id)
    Output(output).result({"revoked": token_id}, f"Revoked token {token_id}.")


def _described(token: Json | None) -> str:
    if token is None:
        return ""
    name = f" {token['name']!r}" if token.get("name") else ""
    what = f", {token['role']} in {token['project']}" if token.get("project") else ", with all rights"
    return f"{name} of {token['user']}{what}"
