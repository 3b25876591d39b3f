"""`berth registry project|robot|protect|unprotect|retention`: what a project is like at registries that let us."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from berth.cli.berth.registry_care import Name, Project, Timeout, Wait, until
from berth.cli.output import Column, Format, Output, OutputOption, YesOption, confirm
from berth.cli.sizes import size
from berth.client import Berth
from berth.client.session import Json
from berth.errors import RemoteError

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be changed.")]
RobotId = Annotated[int, typer.Argument(help="Number of the robot; `berth registry robot ls`.")]
Adopt = Annotated[
    bool, typer.Option("--adopt", help="Let the service use it there from now on; its secret is not shown.")
]
_ROBOTS: list[Column] = ["id", "name", "rights", "expires_at", "disabled"]


def project_show(name: Name, project: Project, output: OutputOption = Format.text) -> None:
    """Show what a project is like there: settings, storage, protected tags, retention.

    Example: berth registry project show harbor vision
    """
    with Berth.from_settings() as berth:
        Output(output).result(berth.registries.project(name, project))


def project_set(
    name: Name,
    project: Project,
    public: Annotated[bool | None, typer.Option("--public/--private", help="Whether anybody may pull.")] = None,
    auto_scan: Annotated[bool | None, typer.Option("--auto-scan/--no-auto-scan", help="Scan what is pushed.")] = None,
    auto_sbom: Annotated[
        bool | None, typer.Option("--auto-sbom/--no-auto-sbom", help="Make an SBOM of what is pushed.")
    ] = None,
    prevent_vulnerable: Annotated[
        bool | None,
        typer.Option("--prevent-vulnerable/--allow-vulnerable", help="Refuse pulls at findings of --severity."),
    ] = None,
    severity: Annotated[str | None, typer.Option("--severity", help="none, low, medium, high or critical.")] = None,
    cosign_trust: Annotated[
        bool | None, typer.Option("--cosign/--no-cosign", help="Refuse pulls without a cosign signature.")
    ] = None,
    storage: Annotated[
        int | None,
        typer.Option(
            "--storage", metavar="SIZE", parser=size(none=-1), help="Bytes at most, e.g. 50GB; -1 = no limit."
        ),
    ] = None,
    dry_run: DryRun = False,
    output: OutputOption = Format.text,
) -> None:
    """Make a project there, or bring it in line.

    Example: berth registry project set harbor vision --auto-scan --dry-run
    """
    with Berth.from_settings() as berth:
        answer = berth.registries.set_project(
            name,
            project,
            dry_run=dry_run,
            public=public,
            auto_scan=auto_scan,
            auto_sbom=auto_sbom,
            prevent_vulnerable=prevent_vulnerable,
            severity=severity,
            cosign_trust=cosign_trust,
            storage_limit=storage,
        )
    _changed(Output(output), answer)


def robot_ls(name: Name, project: Project, output: OutputOption = Format.text) -> None:
    """List the robots of a project there.

    Example: berth registry robot ls harbor vision
    """
    with Berth.from_settings() as berth:
        rows = berth.registries.robots(name, project)
    Output(output).table(rows, _ROBOTS, empty="It has no robot. berth registry robot add makes one.")


def robot_add(
    name: Name,
    project: Project,
    robot: Annotated[str, typer.Argument(help="Name of the robot within the project.")],
    read_only: Annotated[bool, typer.Option("--read-only", help="Only pull; else push and withdraw, too.")] = False,
    days: Annotated[int, typer.Option("--days", min=-1, help="How long it lives; -1 = for ever.")] = -1,
    adopt: Adopt = False,
    output: OutputOption = Format.text,
) -> None:
    """Add a robot with the least rights.

    Example: berth registry robot add harbor vision berth --adopt
    """
    with Berth.from_settings() as berth:
        made = berth.registries.add_robot(name, project, robot, publishes=not read_only, days=days, adopt=adopt)
    _robot(Output(output), name, made)


def robot_renew(
    name: Name,
    project: Project,
    robot_id: RobotId,
    adopt: Adopt = False,
    yes: YesOption = False,
    output: OutputOption = Format.text,
) -> None:
    """Give a robot another secret; the old one ends at once.

    Example: berth registry robot renew harbor vision 7
    """
    with Berth.from_settings() as berth:
        if not yes:
            who = _who(berth, name, project, robot_id, warn=not adopt)
            confirm(f"Give {who} at {name} another secret? What signs in with the old one is refused at once.")
        made = berth.registries.renew_robot(name, project, robot_id, adopt=adopt)
    _robot(Output(output), name, made)


def robot_rm(
    name: Name, project: Project, robot_id: RobotId, yes: YesOption = False, output: OutputOption = Format.text
) -> None:
    """Remove a robot.

    Example: berth registry robot rm harbor vision 7
    """
    with Berth.from_settings() as berth:
        if not yes:
            who = _who(berth, name, project, robot_id, warn=True)
            confirm(f"Remove {who} at {name}? What signs in with it is refused at once.")
        berth.registries.remove_robot(name, project, robot_id)
    Output(output).result({"removed": robot_id}, f"Robot {robot_id} is gone.")


def protect(
    name: Name,
    project: Project,
    tags: Annotated[str, typer.Option("--tags", help="Pattern of tags, e.g. '[0-9]*'.")] = "**",
    repositories: Annotated[str, typer.Option("--repositories", help="Pattern of repositories.")] = "**",
    dry_run: DryRun = False,
    output: OutputOption = Format.text,
) -> None:
    """Have tags neither moved nor removed there. Versions that are denied later cannot be withdrawn then.

    Example: berth registry protect harbor vision --tags '[0-9]*' --dry-run
    """
    with Berth.from_settings() as berth:
        answer = berth.registries.protect(name, project, tags=tags, repositories=repositories, dry_run=dry_run)
    _changed(Output(output), answer)


def unprotect(
    name: Name,
    project: Project,
    rule: Annotated[int, typer.Argument(help="Number of the rule; `berth registry project show`.")],
    yes: YesOption = False,
    output: OutputOption = Format.text,
) -> None:
    """Let tags be moved and removed again.

    Example: berth registry unprotect harbor vision 3
    """
    with Berth.from_settings() as berth:
        if not yes:
            found = next((r for r in berth.registries.project(name, project)["rules"] if r["id"] == rule), None)
            tags = f"tags {found['tags']} in {found['repositories']}" if found else f"the tags of rule {rule}"
            confirm(f"Let {tags} be moved and removed at {name} again?")
        berth.registries.unprotect(name, project, rule)
    Output(output).result({"removed": rule}, f"Rule {rule} is gone.")


def retention_show(name: Name, project: Project, output: OutputOption = Format.text) -> None:
    """Show what is kept there, and when the rest goes.

    Example: berth registry retention show aws vision
    """
    with Berth.from_settings() as berth:
        rows = berth.registries.retained(name, project)
    Output(output).table(rows, ["place", "keep_newest", "schedule", "rules"], empty=f"{name} holds nothing of it.")


def retention_set(
    name: Name,
    project: Project,
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many of the newest of each repository stay.")],
    schedule: Annotated[
        str | None,
        typer.Option("--schedule", help="When the others go. Harbor: cron of six fields; GitLab: 1d, 7d, 14d, …"),
    ] = None,
    dry_run: DryRun = False,
    yes: YesOption = False,
    output: OutputOption = Format.text,
) -> None:
    """Set how many versions are kept there. The registry removes the others by itself.

    Example: berth registry retention set harbor vision --keep 20 --dry-run
    """
    out = Output(output)
    with Berth.from_settings() as berth:
        if not (dry_run or yes):
            planned = berth.registries.retain(name, project, keep_newest=keep, schedule=schedule, dry_run=True)
            if planned["changes"]:
                print("\n".join(_planned(planned)), file=sys.stderr)
                confirm(f"Have {name} remove what it does not keep of {project} from now on?")
        answer = berth.registries.retain(name, project, keep_newest=keep, schedule=schedule, dry_run=dry_run)
    out.result(answer, "\n".join(_planned(answer)) or "Nothing to change.")
    if dry_run and answer["changes"]:
        out.note("This was a dry run; nothing was changed.")
    out.step(f"See what is kept: berth registry retention show {name} {project}")


def retention_run(
    name: Name,
    project: Project,
    delete: Annotated[bool, typer.Option("--delete", help="Really delete; without it a dry run.")] = False,
    yes: YesOption = False,
    wait: Wait = False,
    timeout: Timeout = 600,
    output: OutputOption = Format.text,
) -> None:
    """Delete what is not kept there, or see what that would be (the default).

    Example: berth registry retention run harbor vision --wait
    """
    if delete and not yes:
        confirm(f"Delete what the retention of {project} at {name} does not keep?")
    with Berth.from_settings() as berth:
        found = berth.registries.start_retention(name, project, dry_run=not delete)
        if wait:
            number = found["id"]
            found = until(lambda: berth.registries.retention(name, project, number), timeout=timeout, what="The run")
    out = Output(output)
    dry = " (a dry run)" if found["dry_run"] else ""
    lines = [f"{found['id']}: {found['state']}{dry}"]
    for row in found["repositories"]:
        lines.append(f"{row['repository']}: {row['kept']} of {row['found']} kept")
    out.result(found, "\n".join(lines))
    if found["state"] == "failed":
        raise RemoteError(f"The retention run {found['id']} of {project} at {name} failed.")


def _who(berth: Berth, name: str, project: str, robot_id: int, *, warn: bool) -> str:
    """A robot by its name there; with `warn` also whether we ourselves would be locked out."""
    found = next((robot for robot in berth.registries.robots(name, project) if robot["id"] == robot_id), None)
    if found is None:
        return f"robot {robot_id}"
    own = warn and berth.registries.show(name)["username"] == found["name"]
    return f"{found['name']}{' (which this service itself uses there)' if own else ''}"


def _planned(answer: Json) -> list[str]:
    lines = list(answer["changes"])
    for gone in answer.get("expiring") or []:
        tags = f": {', '.join(gone['tags'])}" if gone["tags"] else ""
        count = "it is still looking what goes; ask again" if gone["count"] is None else f"{gone['count']} go"
        lines.append(f"{gone['place']}: {count}{tags}")
    return lines


def _changed(out: Output, answer: Json) -> None:
    text = "\n".join(answer["changes"]) or "Nothing to change."
    out.result(answer, text)
    if answer["dry_run"] and answer["changes"]:
        out.note("This was a dry run; nothing was changed.")


def _robot(out: Output, name: str, made: Json) -> None:
    lines = [f"{made['name']} ({made['id']})"]
    lines += [f"Secret: {made['secret']}"] if made.get("secret") else [f"{name} is used as this robot from now on."]
    out.result(made, "\n".join(lines))
    if made.get("secret"):
        out.note("The secret is not shown again.")
