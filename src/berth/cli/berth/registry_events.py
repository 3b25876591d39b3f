"""`berth registry hook|unhook|events`: what other registries tell the service."""

from __future__ import annotations

from typing import Annotated

import typer

from berth.cli.output import Column, Format, Output, OutputOption, YesOption, confirm, counted
from berth.client import Berth

Name = Annotated[str, typer.Argument(help="Name of the registry here.")]
_EVENTS: list[Column] = ["received_at", "action", "repository", "tag", "deliveries", "state", "outcome"]


def hook(
    name: Name,
    install: Annotated[
        list[str] | None,
        typer.Option("--install", help="Set the webhook up at the registry for this project of ours; repeatable."),
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Where the registry reaches this service, https://HOST/hooks/NAME.")
    ] = None,
    pulls: Annotated[bool, typer.Option("--pulls", help="With --install: also tell of every pull.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Make another secret; the old one ends at once.")] = False,
    yes: YesOption = False,
    output: OutputOption = Format.text,
) -> None:
    """Let a registry tell us of pushes and deletions.

    Example: berth registry hook harbor --install vision
    """
    with Berth.from_settings() as berth:
        if anew and not yes and berth.registries.show(name)["has_hook"]:
            confirm(f"Make another secret for deliveries of {name}? What carries the old one is refused at once.")
        answer = berth.registries.hook(name, projects=install or (), address=address, pulls=pulls, anew=anew)
    out = Output(output)
    lines = [f"Deliveries of {name} come to {answer['address']}."]
    if answer.get("authorization"):
        lines.append(f"Authorization: {answer['authorization']}")
    elif answer.get("secret") and answer["secret"] not in answer["address"]:
        lines.append(f"Secret: {answer['secret']}")
    for done in answer["installed"]:
        lines.append(f"{done['project']}: its webhook was {'set up' if done['added'] else 'brought up to date'} there.")
    out.result(answer, "\n".join(lines))
    if answer.get("secret"):
        out.note("The secret is not shown again; --anew makes another.")
    out.step(f"Start a rule by it: berth sync rule add … --source {name} --on-event")


def unhook(name: Name, yes: YesOption = False, output: OutputOption = Format.text) -> None:
    """Take no more deliveries of a registry.

    Example: berth registry unhook harbor
    """
    with Berth.from_settings() as berth:
        if not yes:
            started = [rule["name"] for rule in berth.sync.ls() if rule["on_event"] and rule["source"] == name]
            rules = f" They start {counted(len(started), 'rule')}: {', '.join(started[:5])}." if started else ""
            confirm(f"Refuse deliveries of {name}, and forget their secret?{rules}")
        berth.registries.unhook(name)
    Output(output).result({"unhooked": name}, f"Deliveries of {name} are refused from now on.")


def events(
    name: Name,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
    output: OutputOption = Format.text,
) -> None:
    """List what a registry told us, newest first, and what followed.

    Example: berth registry events harbor --limit 20
    """
    with Berth.from_settings() as berth:
        rows = berth.registries.events(name, limit=limit)
    Output(output).table(rows, _EVENTS, empty=f"{name} told nothing yet. berth registry hook {name}")
