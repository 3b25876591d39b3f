"""`xumi ps`, `xumi logs` and `xumi stop`: the models that `xumi run --detach` left in the background."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from berth.authoring import detached
from berth.authoring.containers import STOP_SECONDS
from berth.cli.output import Format, Output, OutputOption
from berth.client.credentials import environment
from berth.errors import InvalidInput

NameArgument = Annotated[str, typer.Argument(help="Name of the model, as `xumi ps` shows it.")]
_POLL_SECONDS = 0.2


def ps(output: OutputOption = Format.text) -> None:
    """List the models that run in the background, and those that ended there by themselves.

    Example: xumi ps -o json
    """
    out = Output(output)
    found = detached.every(environment().home)
    if out.json:
        out.result([one.to_json() for one in found])
        return
    rows = [
        {
            "name": one.name,
            "version": one.version,
            "state": one.state,
            "url": one.url if one.state == "running" else None,
            "how": one.how,
            "started": datetime.fromtimestamp(one.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        }
        for one in found
    ]
    out.table(rows, ["name", "version", "state", "url", "how", "started"], empty="No model runs in the background.")
    if any(one.state == "ended" for one in found):
        out.note("`xumi logs NAME` shows why one ended; `xumi stop NAME` forgets it.")


def logs(
    name: NameArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the model ends or Ctrl-C.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Print what a model in the background has written.

    Example: xumi logs file-type-3f2a --follow
    """
    out = Output(output)
    home = environment().home
    found = detached.one(home, name)
    if out.json:
        if follow:
            raise InvalidInput("--follow prints lines, not a document.", hint="Leave out -o json.")
        text = found.log.read_text(encoding="utf-8", errors="replace")
        out.result({"name": found.name, "state": found.state, "lines": text.splitlines()})
        return
    with found.log.open("r", encoding="utf-8", errors="replace") as stream:
        while True:
            state = found.state
            for line in stream:
                sys.stdout.write(line)
            sys.stdout.flush()
            if not follow or state == "ended" or not found.log.exists():
                return
            time.sleep(_POLL_SECONDS)
            found = next((one for one in detached.every(home) if one.name == name), found)


def stop(
    names: Annotated[list[str] | None, typer.Argument(help="Names of models, as `xumi ps` shows them.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    timeout: Annotated[
        float, typer.Option("--time", "-t", min=0, help="Seconds for calls that still run; then by force.")
    ] = float(STOP_SECONDS),
    output: OutputOption = Format.text,
) -> None:
    """End models in the background, with their containers.

    Example: xumi stop file-type-3f2a
    """
    out = Output(output)
    home = environment().home
    if bool(names) == all_:
        raise InvalidInput("Name what to stop, or say --all.", hint="`xumi ps` lists the names.")
    found = detached.every(home) if all_ else [detached.one(home, name) for name in dict.fromkeys(names or [])]
    for one in found:
        detached.stop(one, seconds=timeout)
    out.result(
        {"stopped": [one.name for one in found]}, "\n".join(f"Stopped {one.name}." for one in found) or "Nothing ran."
    )
