"""`berth registry`: other registries that models are published to and taken from."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from berth.cli.berth._runs import so_far, wait_for
from berth.cli.output import Format, Output, OutputOption, YesOption, confirm, counted, human_size
from berth.client import Berth
from berth.errors import InvalidInput, RemoteError

_IMPORTED = ["action", "source_repository", "tag", "digest", "state", "code", "reason"]

Name = Annotated[str, typer.Argument(help="Name of the registry here.")]


def kinds(output: OutputOption = Format.text) -> None:
    """List the kinds of registries and their options.

    Example: berth registry kinds
    """
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
    takes_open: Annotated[
        bool, typer.Option("--takes-open", help="Versions of open projects, which nothing is asked of, may go there.")
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="KEY=VALUE; true, false and JSON lists are read as such.")
    ] = None,
    output: OutputOption = Format.text,
) -> None:
    """Make a registry known. Its password is stored sealed and never shown.

    Example: berth registry add engine --kind daemon --url unix:///run/docker.sock
    """
    options: dict[str, Any] = dict(_option(text) for text in option or [])
    options |= {"prefix": prefix} if prefix is not None else {}
    flags = {"flat": flat, "insecure": insecure, "allow_private": allow_private}
    options |= {key: True for key, value in flags.items() if value}
    secret = _password() if password_stdin else None
    with Berth.from_settings() as berth:
        answer = berth.registries.add(
            name, kind=kind, url=url, username=username, secret=secret, options=options, takes_open=takes_open
        )
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
    takes_open: Annotated[
        bool | None,
        typer.Option("--takes-open/--refuses-open", help="Whether versions of open projects may go there."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="KEY=VALUE, as for add; KEY= takes an option away.")
    ] = None,
    output: OutputOption = Format.text,
) -> None:
    """Change a registry's address, password or options, or whether it takes versions of open projects.

    Example: berth registry set shelf --option redirect=true
    """
    secret = _password() if password_stdin else None
    with Berth.from_settings() as berth:
        options: dict[str, Any] | None = None
        if option:
            options = {**berth.registries.show(name)["options"], **dict(_option(text) for text in option)}
            options = {key: value for key, value in options.items() if value != ""}
        answer = berth.registries.change(
            name, url=url, username=username, secret=secret, options=options, takes_open=takes_open
        )
    out = Output(output)
    out.result(answer, f"Changed registry {name}.")
    out.step(f"See what it can do: berth registry probe {name}")


def ls(output: OutputOption = Format.text) -> None:
    """List the known registries.

    Example: berth registry ls
    """
    with Berth.from_settings() as berth:
        rows = berth.registries.ls()
    columns = ["name", "kind", "url", "username", "takes_open", "probed_at"]
    Output(output).table(rows, columns, empty="No registry is known besides our own depot.")


def show(name: Name, output: OutputOption = Format.text) -> None:
    """Show one registry and what it can do.

    Example: berth registry show harbor
    """
    with Berth.from_settings() as berth:
        answer = berth.registries.show(name)
    found = dict(answer.get("capabilities") or {})
    facts = {key: value for key, value in answer.items() if key != "capabilities"} | {"notes": found.pop("notes", [])}
    out = Output(output)
    if out.json:
        out.result(answer)
        return
    out.result(facts)
    print("\n".join(["", *_capabilities(found)]))


def rm(name: Name, yes: YesOption = False, output: OutputOption = Format.text) -> None:
    """Forget a registry; what lives there stays there.

    Example: berth registry rm harbor
    """
    with Berth.from_settings() as berth:
        if not yes:
            known = berth.registries.show(name)
            has = {"its password": known["has_secret"], "its webhook's secret": known["has_hook"]}
            gone = " and ".join(what for what, there in has.items() if there)
            using = [rule["name"] for rule in berth.sync.ls() if name in (rule["source"], rule["target"])]
            rules = f" Used by {counted(len(using), 'rule')}: {', '.join(using[:5])}." if using else ""
            confirm(f"Forget {name} ({known['url']}){f' with {gone}' if gone else ''}?{rules}")
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
    """Ask a registry what it can do, and remember it.

    Example: berth registry probe harbor --repository vision/probe
    """
    with Berth.from_settings() as berth:
        answer = berth.registries.probe(name, repository=repository)
    out = Output(output)
    found = dict(answer.get("capabilities") or {})
    notes = found.pop("notes", [])
    out.result(answer, "\n".join(_capabilities(found)))
    if not out.json:
        for note in notes:
            out.note(f"note: {note}")


def import_(
    name: Name,
    project: Annotated[str | None, typer.Option("--project", help="Only this project's models.")] = None,
    repository: Annotated[str | None, typer.Option("--repository", help="Glob over project/model.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would become known; change nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait at most.")] = 3600,
    output: OutputOption = Format.text,
) -> None:
    """Catalogue what already lives in a registry; no layer is moved.

    Tags that are semantic versions of project/model become versions here, with their signatures. They are scanned here
    and refused until then.

    Example: berth registry import hub --project vision --dry-run
    """
    out = Output(output)
    with Berth.from_settings() as berth:
        started = berth.registries.import_(name, project=project, repository=repository, dry_run=dry_run)
        number = int(started["id"])
        if not (wait or dry_run):
            out.result(started, f"Import {number} from {name} has started.")
            out.step(f"See how far it is: berth sync status --run {number}")
            return
        ended = wait_for(berth, out, number, timeout=timeout)
        items = berth.sync.items(number)
    if out.json:
        out.result({**ended, "items": items})
    else:
        out.table(items, _IMPORTED, empty=f"{name} holds no model in that scope.")
        out.note(f"{so_far(ended, items)}; layers stay where they are.")
    if ended["state"] != "succeeded":
        raise RemoteError(
            f"Import {number} from {name} has {ended['state']}{': ' + ended['error'] if ended.get('error') else '.'}",
            hint=f"berth sync status --run {number} shows every item.",
        )


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


def _capabilities(found: dict[str, Any]) -> list[str]:
    """One line for each; how large something may be in units."""
    width = max((len(key) for key in found), default=0) + 1
    return [f"{key + ':':<{width}} {_word(key, value)}" for key, value in sorted(found.items())]


def _word(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key.startswith("largest_"):
        return human_size(value)
    return "-" if value is None else str(value)
