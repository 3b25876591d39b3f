"""`berth sync drift`: where two places differ that should not, and since when."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from berth.cli.berth._runs import wait_for
from berth.cli.output import Column, Format, Output, OutputOption
from berth.client import Berth
from berth.errors import InvalidInput, RemoteError

_MODELS: list[Column] = [
    "rule", "target", "model", "missing", ("evidence_missing", "evidence"), "conflicts", "surplus", "failing", "since",
]  # fmt: skip
_RULES: list[Column] = ["rule", "source", "target", "project", "state", "versions", "since", "checked_at", "last_error"]
_PLACES: list[Column] = ["registry", "model", "pending", "failed", "exposed", "since", "error"]
_VERSIONS: list[Column] = ["model", "tag", "code", "since", "reason", "error"]


def drift(
    rule: Annotated[str | None, typer.Argument(help="Only this rule, version by version.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="With a rule: only this model of its target.")] = None,
    registry: Annotated[str | None, typer.Option("--registry", help="Only what differs there.")] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Compare the places again first; nothing is copied.")
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 1 when anything differs or was never compared.")
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="With --refresh: seconds per rule.")] = 600,
    output: OutputOption = Format.text,
) -> None:
    """Show what differs per model and registry, and since when.

    It is what the newest plan or run of each rule found, less what has been copied since, together with published
    versions that are not where they belong.

    Example: berth sync drift --refresh
    """
    out = Output(output)
    if model is not None and rule is None:
        raise InvalidInput("Which rule?", hint="berth sync drift RULE --model PROJECT/MODEL")
    with Berth.from_settings() as berth:
        if refresh:
            _refresh(berth, out, [rule] if rule else [str(row["name"]) for row in berth.sync.ls()], timeout)
        report = berth.sync.drift(rule, registry=registry)
        versions = berth.sync.drifted(rule, model=model) if rule else None
    if out.json:
        out.result(report if versions is None else {**report, "versions": versions})
    else:
        _tell(out, report, versions)
    apart = [row["rule"] for row in report["rules"] if row["state"] != "in_step"]
    if exit_code and (apart or report["published"]):
        raise RemoteError(
            f"Not in step: {', '.join(apart) or 'published versions'}.", hint="berth sync run RULE --wait copies."
        )


def _refresh(berth: Berth, out: Output, rules: list[str], timeout: float) -> None:
    for name in rules:
        run = wait_for(berth, out, int(berth.sync.plan(name)["id"]), timeout=timeout)
        if run["state"] != "succeeded":
            out.note(f"{name} could not be compared: {run['error'] or run['state']}")


def _tell(out: Output, report: dict[str, Any], versions: list[dict[str, Any]] | None) -> None:
    out.table(report["rules"], _RULES, empty="There is no rule.")
    if versions is not None:
        print()
        out.table(versions, _VERSIONS, empty="Nothing differs.")
        return
    for rows, columns in ((report["models"], _MODELS), (report["published"], _PLACES)):
        if rows:
            print()
            out.table(rows, columns)
