"""`xumi sync`: what Berth has in higher versions comes to this machine, once or every so often."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from berth.cli.output import Format, Output, OutputOption, human_size
from berth.client import Berth
from berth.client.credentials import environment
from berth.client.local_sync import LocalSync, Round, alone
from berth.client.sync_rules import FILE, SyncRule, check, read_file, read_line
from berth.errors import BerthError, InvalidInput, RemoteError
from berth.wire.auth import ANONYMOUS, Credential

FIRST_WAIT_SECONDS: Final = 5.0
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def sync(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROJECT/MODEL...]", help=f"Models, globs too; default: the rules in XUMI_HOME/{FILE}."
        ),
    ] = None,
    range_: Annotated[str | None, typer.Option("--range", help="Only versions in it, e.g. '^1'.")] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", help="local (the repository of `xumi ls`), folder:/PATH, or http(s)://HOST of a registry."
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also versions below the highest one that is there.")] = False,
    push: Annotated[bool, typer.Option("--push", help="The reverse: send own builds that Berth lacks.")] = False,
    every: Annotated[
        str | None, typer.Option("--every", metavar="TIME", help="Stay, and look again so often, e.g. 15m or 1h.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and why.")] = False,
    to_user: Annotated[str | None, typer.Option("--to-user", help="User name at the registry of --to.")] = None,
    to_password_file: Annotated[
        Path | None, typer.Option("--to-password-file", help="File with the password for that registry.")
    ] = None,
    output: OutputOption = Format.text,
) -> None:
    """Bring higher versions from Berth to this machine.

    Only what the gate lets out comes, and only what is missing is sent. Nothing is overwritten or removed. The same in
    one line of XUMI_HOME/sync.yaml: `- ml/* ^1`.

    Example: xumi sync 'ml/*' --range '^1'
    """
    out = Output(output)
    home = environment().home
    rules = _rules(models or [], home, SyncRule("", range=range_, to=to or "local", push=push, all=all_))
    seconds = None if every is None else _seconds(every)
    credential = _credential(to_user, to_password_file)
    with _ended_by_signal() as ended, alone(home, rules), Berth.from_settings() as berth, out.progress() as progress:
        work = LocalSync(berth, home, credential=credential, progress=progress)
        if seconds is None:
            _once(work, rules, out, dry_run=dry_run)
        else:
            _stay(work, rules, out, seconds, ended, dry_run=dry_run)


def _once(work: LocalSync, rules: list[SyncRule], out: Output, *, dry_run: bool) -> None:
    found = work.round(rules, dry_run=dry_run)
    if out.json:
        out.result(found.to_json())
    else:
        _tell(found, out)
    if found.failed:
        first = next(iter(found.broken.values()), None) or next(o.error for o in found.of("failed"))
        raise RemoteError(f"Not everything came: {first}", hint="Run it again: what has arrived is not sent again.")


def _stay(
    work: LocalSync, rules: list[SyncRule], out: Output, seconds: float, ended: threading.Event, *, dry_run: bool
) -> None:
    """Round after round until SIGTERM or Ctrl-C; after failures sooner, and later each time."""
    failures = 0
    try:
        while not ended.is_set():
            try:
                found = work.round(rules, dry_run=dry_run)
            except BerthError as error:
                found = Round(broken={"*": str(error)})
            failures = failures + 1 if found.failed else 0
            wait = min(seconds, FIRST_WAIT_SECONDS * 2 ** (failures - 1)) if failures else seconds
            if out.json:
                print(json.dumps(found.to_json() | {"at": datetime.now(UTC).isoformat(), "next_in": wait}), flush=True)
            else:
                _tell(found, out, quiet=True)
                out.note(f"{human_size(found.bytes_transferred)} came; the next look is in {wait:g} s.")
            ended.wait(wait)
    except KeyboardInterrupt:
        pass  # parts of blobs stay, and the next start goes on with them
    out.note("Stopped.")


def _tell(found: Round, out: Output, *, quiet: bool = False) -> None:
    rows = [
        {
            **one.to_json(),
            "size": human_size(one.bytes) if one.state == "done" else None,
            "why": one.error or one.item.reason,
        }
        for one in found.outcomes
        if not quiet or one.state not in ("skipped",)
    ]
    if rows or not quiet:
        out.table(rows, ["state", "model", "version", "to", "size", "why"], empty="There is nothing to bring.")
    for models, why in found.broken.items():
        out.note(f"{models}: {why}")
    if not quiet:
        out.note(f"{human_size(found.bytes_transferred)} were sent.")


def _rules(models: list[str], home: Path, like: SyncRule) -> list[SyncRule]:
    if models:
        return [check(replace(like, models=text)) if " " not in text else read_line(text) for text in models]
    if like != SyncRule(""):
        raise InvalidInput("Which models?", hint="Name them: xumi sync 'ml/*' --range '^1'.")
    rules = read_file(home)
    if not rules:
        raise InvalidInput(
            f"There are no rules in {home / FILE}, and no models are named.",
            hint="Try xumi sync 'PROJECT/*', or write one rule a line: - ml/* ^1",
        )
    return rules


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    if match is None:
        raise InvalidInput(f"{text[:30]!r} is no time.", hint="Write 30s, 15m, 1h or 1d.")
    return float(int(match[1]) * _UNITS[match[2]])


def _credential(user: str | None, password_file: Path | None) -> Credential:
    if user is None and password_file is None:
        return ANONYMOUS
    if user is None or password_file is None:
        raise InvalidInput("User and password belong together.", hint="Give --to-user and --to-password-file.")
    try:
        return Credential(user, password_file.read_text(encoding="utf-8").rstrip("\n"))
    except OSError as error:
        raise InvalidInput(f"{password_file} cannot be read: {error.strerror}.") from error


@contextmanager
def _ended_by_signal() -> Iterator[threading.Event]:
    """SIGTERM ends a wait at once and interrupts a transfer, as Ctrl-C does."""
    ended = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield ended
        return

    def end(*_: object) -> None:
        ended.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield ended
    finally:
        signal.signal(signal.SIGTERM, before)
