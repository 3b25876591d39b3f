"""`berth registry`: other registries that models are published to and taken from."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from berth.cli.output import Format, Output, OutputOption
from berth.client import Berth
from berth.errors import InvalidInput

Name = Annotated[str, typer.Argument(help="Name of the registry here.")]


def kinds(output: OutputOption = Format.text) -> None:
    """List the kinds of registries and their options."""
    with Berth.from_settings() as berth:
        rows = berth.registries.kinds()
    shown = rows if Output(output).json else [{**row, "options": sorted(row["options"])} for row in rows]
    Output(output).table(shown, ["name", "title", "options"])


def add(
    name: Name,
    kind: Annotated[str, typer.Option("--kind", help="One of `berth registry kinds`.")],
    url: Annotated[
        str, typer.Option("--url", help="https://host[:port], s3://bucket/prefix, unix:///socket or file:///path.")
    ],
    username: Annotated[str | None, typer.Option("--username", help="User to sign in as.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password or token from standard input.")
    ] = False,
    prefix: Annotated[str | None, typer.Option("--prefix", help="Leading path of every repository there.")] = None,
    flat: Annotated[bool, typer.Option("--flat", help="One component, project__model, instead of two.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow plain http.")] = False,
    allow_private: Annotated[bool, typer.Option("--allow-private", help="Allow private addresses.")] = False,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="KEY=VALUE; true, false and JSON lists are read as such.")
    ] = None,
    output: OutputOption = Format.text,
) -> None:
    """Make a registry known. Its password is stored sealed and never shown.

    For example: berth registry add engine --kind daemon --url unix:///run/docker.sock
    """
    options: dict[str, Any] = dict(_option(text) for text in option or [])
    options |= {"prefix": prefix} if prefix is not None else {}
    flags = {"flat": flat, "insecure": insecure, "allow_private": allow_private}
    options |= {key: True for key, value in flags.items() if value}
    secret = _password() if password_stdin else None
    with Berth.from_settings() as berth:
        answer = berth.registries.add(name, kind=kind, url=url, username=username, secret=secret, options=options)
    out = Output(output)
    out.result(answer, f"Added registry {name}.")
    out.step(f"See what it can do: berth registry probe {name}")


def set_(
    name: Name,
    url: Annotated[str | None, typer.Option("--url", help="New address; needs the password again.")] = None,
    username: Annotated[str | None, typer.Option("--username", help="New user.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read a new password or token from standard input.")
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="KEY=VALUE, as for add; KEY= takes an option away.")
    ] = None,
    output: OutputOption = Format.text,
) -> None:
    """Change a registry's address, password or options."""
    secret = _password() if password_stdin else None
    with Berth.from_settings() as berth:
        options: dict[str, Any] | None = None
        if option:
            options = {**berth.registries.show(name)["options"], **dict(_option(text) for text in option)}
            options = {key: value for key, value in options.items() if value != ""}
        answer = berth.registries.change(name, url=url, username=username, secret=secret, options=options)
    out = Output(output)
    out.result(answer, f"Changed registry {name}.")
    out.step(f"See what it can do: berth registry probe {name}")


def ls(output: OutputOption = Format.text) -> None:
    """List the known registries."""
    with Berth.from_settings() as berth:
        rows = berth.registries.ls()
    columns = ["name", "kind", "url", "username", "probed_at"]
    Output(output).table(rows, columns, empty="No registry is known besides our own depot.")


def show(name: Name, output: OutputOption = Format.text) -> None:
    """Show one registry and what it can do."""
    with Berth.from_settings() as berth:
        Output(output).result(berth.registries.show(name))


def rm(name: Name, output: OutputOption = Format.text) -> None:
    """Forget a registry; what lives there stays there."""
    with Berth.from_settings() as berth:
        berth.registries.remove(name)
    Output(output).result({"removed": name}, f"Registry {name} is no longer known here.")


def probe(
    name: Name,
    repository: Annotated[
        str | None,
        typer.Option("--repository", help="project/name: push small content there, look what happens, remove it."),
    ] = None,
    output: OutputOption = Format.text,
) -> None:
    """Ask a registry what it can do, and remember it."""
    with Berth.from_settings() as berth:
        answer = berth.registries.probe(name, repository=repository)
    out = Output(output)
    found = dict(answer.get("capabilities") or {})
    notes = found.pop("notes", [])
    out.result(answer, None if out.json else "\n".join(f"{key}: {_word(value)}" for key, value in found.items()))
    if not out.json:
        for note in notes:
            out.note(f"note: {note}")


def _password() -> str:
    secret = sys.stdin.read().rstrip("\r\n")
    if not secret:
        raise InvalidInput("Standard input held no password.", hint='printf %s "$PASSWORD" | berth registry …')
    return secret


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidInput(f"{text!r} is not KEY=VALUE.")
    if value in ("true", "false") or value.startswith(("[", "{")):
        try:
            return key, json.loads(value)
        except ValueError as error:
            raise InvalidInput(f"The value of {key} is not JSON: {error}.") from error
    return key, value


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
