"""`berth key`: the keys whose signatures a project trusts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption, YesOption, confirm, counted
from berth.client import Berth
from berth.errors import InvalidInput

Project = Annotated[str, typer.Option("--project", help="The project that trusts it.")]
Name = Annotated[str, typer.Argument(help="What the project calls the key.")]


def trust(
    name: Name,
    project: Project,
    key: Annotated[Path, typer.Option("--key", help="File with the public key in PEM, e.g. release.pub.")],
    predicate: Annotated[
        list[str] | None,
        typer.Option("--predicate", help="What it may state: signature (default), or a predicate type; repeatable."),
    ] = None,
    output: OutputOption = Format.text,
) -> None:
    """Trust a public key in a project. Signatures that were pushed before count too.

    Example: berth key trust release --project vision --key release.pub
    """
    with Berth.from_settings() as berth:
        answer = berth.keys.trust(project, name, _read(key), predicates=predicate or None)
    Output(output).result(answer, f"Project {project} trusts key {name} ({str(answer['key_id'])[:16]}…).")


def ls(project: Project, output: OutputOption = Format.text) -> None:
    """List the keys a project trusts.

    Example: berth key ls --project vision
    """
    with Berth.from_settings() as berth:
        rows = berth.keys.ls(project)
    columns = ["name", "key_id", "predicates", "added_by", "added_at"]
    Output(output).table(rows, columns, empty=f"Project {project} trusts no key.")


def untrust(name: Name, project: Project, yes: YesOption = False, output: OutputOption = Format.text) -> None:
    """Stop trusting a key; its signatures are void at once.

    Example: berth key untrust release --project vision
    """
    with Berth.from_settings() as berth:
        if not yes:
            keys = berth.keys.ls(project)
            found = next((key for key in keys if key["name"] == name), None)
            which = f" ({str(found['key_id'])[:16]}…)" if found else ""
            confirm(
                f"Stop trusting key {name}{which} in project {project}, which trusts {counted(len(keys), 'key')}? "
                "Versions that need its signatures are refused at once."
            )
        berth.keys.untrust(project, name)
    Output(output).result({"untrusted": name}, f"Project {project} no longer trusts key {name}.")


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"Cannot read the public key {path}: {error}.", hint="It is a PEM file.") from error
    if "PRIVATE KEY" in text:
        raise InvalidInput(
            f"{path} holds a private key; it has not been sent.", hint="Give the public half, usually NAME.pub."
        )
    return text
