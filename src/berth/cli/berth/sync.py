"""`berth sync`: rules that copy between registries, what they would do, and their runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from berth.cli.berth._runs import so_far, wait_for
from berth.cli.output import Column, Format, Output, OutputOption, YesOption, confirm
from berth.cli.sizes import size
from berth.client import Berth
from berth.errors import InvalidInput, NotFound, RemoteError

Name = Annotated[str, typer.Argument(help="Name of the rule.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="With waiting: seconds to wait at most.")]
_RULES: list[Column] = [
    "name",
    "source",
    "target",
    "project",
    "on_admission",
    "on_event",
    "schedule",
    "next_run_at",
    "enabled",
]
_RUNS: list[Column] = [
    "id",
    "kind",
    "state",
    ("bytes_transferred", "moved"),
    "started_by",
    "created_at",
    "finished_at",
    "error",
]
_ITEMS: list[Column] = ["action", ("target_repository", "model"), "tag", "state", "bytes", "reason", "error"]
_PLAN: list[Column] = ["action", ("target_repository", "model"), "tag", "reason"]


def rule_add(
    name: Name,
    source: Annotated[str, typer.Option("--source", help="Registry to copy from; 'depot' is Berth's own store.")],
    target: Annotated[str, typer.Option("--target", help="Registry to copy to.")],
    project: Annotated[str, typer.Option("--project", help="Project whose models are copied.")],
    model: Annotated[str | None, typer.Option("--model", help="Glob over model names.")] = None,
    range_: Annotated[str | None, typer.Option("--range", help="Semver range, e.g. '^1.2'.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="NAME=VALUE that versions must have; '*' = any; repeatable.")
    ] = None,
    alias: Annotated[str | None, typer.Option("--alias", help="Only what this name means at the source.")] = None,
    only_higher: Annotated[
        bool, typer.Option("--only-higher", help="Only versions above the target's highest.")
    ] = False,
    only_admitted: Annotated[
        bool, typer.Option("--only-admitted", help="Only what the gate lets out; always so from the depot.")
    ] = False,
    all_tags: Annotated[bool, typer.Option("--all-tags", help="Also tags that are no version.")] = False,
    direction: Annotated[str | None, typer.Option("--direction", help="push, pull or mirror.")] = None,
    delete: Annotated[
        str | None, typer.Option("--delete", help="Of a mirror, for what the source lost: never, untag or delete.")
    ] = None,
    target_project: Annotated[
        str | None, typer.Option("--target-project", help="The project's name at the target.")
    ] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="Cron in UTC, e.g. '0 3 * * *'.")] = None,
    on_admission: Annotated[
        bool, typer.Option("--on-admission", help="Publish there whatever is admitted, at once.")
    ] = False,
    on_event: Annotated[
        bool, typer.Option("--on-event", help="Run when the source tells of a push; see `berth registry hook`.")
    ] = False,
    window: Annotated[str | None, typer.Option("--window", help="Hours in UTC, e.g. 22:00-06:00.")] = None,
    parallel: Annotated[int | None, typer.Option("--parallel", min=1, help="Blobs that move at once.")] = None,
    bandwidth: Annotated[
        int | None,
        typer.Option("--bandwidth", metavar="SIZE", parser=size(1), help="Bytes per second at most: 20MB, 15MiB."),
    ] = None,
    output: OutputOption = Format.text,
) -> None:
    """Add a sync rule.

    Example: berth sync rule add home --source hub --target depot --project vision --only-higher
    """
    terms: dict[str, Any] = {
        "model": model,
        "range": range_,
        "labels": _labels(label) if label else None,
        "alias": alias,
        "only_higher": only_higher or None,
        "only_admitted": only_admitted or None,
        "all_tags": all_tags or None,
        "direction": direction,
        "delete": delete,
        "target_project": target_project,
        "window": window,
        "parallel_blobs": parallel,
        "bytes_per_second": bandwidth,
    }
    with Berth.from_settings() as berth:
        answer = berth.sync.add(
            name,
            source=source,
            target=target,
            project=project,
            schedule=schedule,
            on_admission=on_admission,
            on_event=on_event,
            terms={key: value for key, value in terms.items() if value is not None},
        )
    out = Output(output)
    out.result(answer, f"Added rule {name}: {project} from {source} to {target}.")
    out.step(f"See what it would do: berth sync plan {name}")


def rule_ls(output: OutputOption = Format.text) -> None:
    """List the sync rules you may see.

    Example: berth sync rule ls
    """
    with Berth.from_settings() as berth:
        rows = berth.sync.ls()
    Output(output).table(rows, _RULES, empty="There is no rule. berth sync rule add makes one.")


def rule_show(name: Name, output: OutputOption = Format.text) -> None:
    """Show one sync rule.

    Example: berth sync rule show home
    """
    with Berth.from_settings() as berth:
        answer = berth.sync.show(name)
    Output(output).result(answer)


def rule_enable(name: Name, output: OutputOption = Format.text) -> None:
    """Have a rule follow its schedule again.

    Example: berth sync rule enable home
    """
    _switch(name, enabled=True, output=output)


def rule_disable(name: Name, output: OutputOption = Format.text) -> None:
    """Keep a rule, but leave its schedule alone.

    Example: berth sync rule disable home
    """
    _switch(name, enabled=False, output=output)


def rule_rm(name: Name, yes: YesOption = False, output: OutputOption = Format.text) -> None:
    """Remove a rule. What it copied stays where it is.

    Example: berth sync rule rm home
    """
    with Berth.from_settings() as berth:
        if not yes:
            rule = berth.sync.show(name)
            what = f"{rule['source']} → {rule['target']}, project {rule['project']}"
            confirm(f"Remove rule {name} ({what}) with its runs? Nothing is copied or withdrawn by it any more.")
        berth.sync.rm(name)
    Output(output).result({"removed": name}, f"Removed rule {name}.")


def plan(
    name: Name,
    everything: Annotated[bool, typer.Option("--all", help="Also what is in step.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the plan, or only start it.")] = True,
    timeout: Timeout = 600,
    output: OutputOption = Format.text,
) -> None:
    """Show what a rule would do now, and so where its places differ. Nothing is copied.

    Example: berth sync plan home
    """
    out = Output(output)
    with Berth.from_settings() as berth:
        started = berth.sync.plan(name)
        if not wait:
            out.result(started, f"Plan {started['id']} of {name} has started.")
            out.step(f"See it: berth sync status --run {started['id']}")
            return
        run = wait_for(berth, out, int(started["id"]), timeout=timeout)
        _require_success(run, name)
        items = berth.sync.items(run["id"], drift=not everything)
    if out.json:
        out.result({**run, "items": items})
        return
    out.table(items, _PLAN, empty=f"Source and target of {name} are in step.")


def run(
    name: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    timeout: Timeout = 3600,
    output: OutputOption = Format.text,
) -> None:
    """Carry out a rule now.

    Example: berth sync run home --wait
    """
    out = Output(output)
    with Berth.from_settings() as berth:
        started = berth.sync.run(name)
        if not wait:
            out.result(started, f"Run {started['id']} of {name} has started.")
            out.step(f"See how far it is: berth sync status {name}")
            return
        ended = wait_for(berth, out, int(started["id"]), timeout=timeout)
        items = berth.sync.items(ended["id"])
    out.result({**ended, "items": items}, f"{so_far(ended, items)}.")
    for item in items:
        if item["state"] in ("failed", "conflict"):
            out.note(f"{item['target_repository']}:{item['tag']}: {item['error'] or item['reason']}")
    _require_success(ended, name)


def status(
    name: Annotated[str | None, typer.Argument(help="Name of the rule.")] = None,
    run_id: Annotated[int | None, typer.Option("--run", help="One run, with its items.")] = None,
    output: OutputOption = Format.text,
) -> None:
    """Show the runs of a rule, or one run with its items.

    Example: berth sync status home
    """
    out = Output(output)
    with Berth.from_settings() as berth:
        if run_id is not None:
            found = berth.sync.status(run_id)
            items = berth.sync.items(run_id)
            if out.json:
                out.result({**found, "items": items})
                return
            out.note(f"Run {run_id} of {found['rule']}: {so_far(found, items)}.")
            out.table(items, _ITEMS, empty="It has no items.")
            return
        if name is None:
            raise InvalidInput("Which runs?", hint="Name a rule, or give --run.")
        rows = berth.sync.runs(name, limit=20)
    out.table(rows, _RUNS, empty=f"Rule {name} has not run yet.")


def cancel(
    name: Annotated[str | None, typer.Argument(help="Name of the rule.")] = None,
    run_id: Annotated[int | None, typer.Option("--run", help="Number of the run.")] = None,
    output: OutputOption = Format.text,
) -> None:
    """Stop a run. What has arrived stays, and the next run goes on from there.

    Example: berth sync cancel home
    """
    with Berth.from_settings() as berth:
        if run_id is None:
            if name is None:
                raise InvalidInput("Which run?", hint="Name a rule, or give --run.")
            active = [row for row in berth.sync.runs(name, limit=20) if row["state"] in ("queued", "running")]
            if not active:
                raise NotFound(f"No run of '{name}' is under way.")
            run_id = int(active[0]["id"])
        answer = berth.sync.cancel(run_id)
    Output(output).result(answer, f"Run {run_id} of {answer['rule']} is being stopped.")


Version = Annotated[str, typer.Argument(help="project/model:version that is being published.")]
Where = Annotated[str | None, typer.Option("--registry", help="Only there; left out: everywhere.")]
_PLACES: list[Column] = [
    "registry",
    "repository",
    "state",
    ("bytes_done", "there"),
    ("bytes_total", "of"),
    "next_try_at",
    "error",
]


def hold(ref: Version, registry: Where = None, output: OutputOption = Format.text) -> None:
    """Stop publishing a version. What has arrived stays.

    Example: berth sync hold vision/detector:1.2.0 --registry harbor
    """
    with Berth.from_settings() as berth:
        places = berth.versions.hold(ref, registry=registry)
    Output(output).table(places, _PLACES)


def release(ref: Version, registry: Where = None, output: OutputOption = Format.text) -> None:
    """Go on publishing a version that was held.

    Example: berth sync release vision/detector:1.2.0
    """
    with Berth.from_settings() as berth:
        places = berth.versions.release(ref, registry=registry)
    Output(output).table(places, _PLACES)


def _switch(name: str, *, enabled: bool, output: Format) -> None:
    with Berth.from_settings() as berth:
        answer = berth.sync.enable(name, enabled=enabled)
    Output(output).result(answer, f"Rule {name} is {'on' if enabled else 'off'}.")


def _labels(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if any(not name or not sign for name, sign, _ in pairs):
        raise InvalidInput("A label is written NAME=VALUE.", hint="Use NAME='*' for any value.")
    return {name: value for name, _, value in pairs}


def _require_success(run: dict[str, Any], name: str) -> None:
    if run["state"] != "succeeded":
        raise RemoteError(
            f"Run {run['id']} of {name} has {run['state']}{': ' + run['error'] if run.get('error') else '.'}",
            hint=f"berth sync status --run {run['id']} shows every item.",
        )
