"""/sync: rules that copy between registries, what they would do now, and their runs.

A rule belongs to the project of this service that it takes from or brings to; its maintainers change it. Rules between
two other registries, and those that rename a project, are for global admins: with our credentials they reach what the
caller might not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from berth.access import audit
from berth.access.decide import decide
from berth.access.registries import registry_named
from berth.errors import Conflict, InvalidInput, NotFound
from berth.oci.reference import check_project
from berth.server.api.calls import Call, acting
from berth.server.api.operations import PAGE, After, Limit, Text, after_id, operation, resource
from berth.sync import rules, runs
from berth.sync.journal import queries
from berth.sync.journal.queries import ItemRow, Run
from berth.sync.rules import DEPOT, Rule

router = resource("sync")
_RULE = "/sync/rules/{rule}"
_RUN = "/sync/runs/{run_id}"


class SyncTerms(BaseModel):
    """What a rule copies, and how. What is left out does not filter."""

    model_config = ConfigDict(extra="forbid")

    model: Text | None = Field(None, max_length=200, description="Glob over model names.")
    target_project: Text | None = Field(None, max_length=128, description="The project's name at the target.")
    labels: dict[Text, Text] | None = Field(None, max_length=20, description="All of these; '*' = any value.")
    range: Text | None = Field(None, max_length=200, examples=["^1.2"], description="Semver range.")
    alias: Text | None = Field(None, max_length=128, description="Only what this name means at the source.")
    direction: Literal["push", "pull", "mirror"] | None = None
    only_higher: bool = Field(False, description="Only versions above the target's highest.")
    only_admitted: bool = Field(False, description="Only what our gate lets out; always so from the depot.")
    all_tags: bool = Field(False, description="Also tags that are no semantic version.")
    delete: Literal["never", "untag", "delete"] | None = Field(
        None, description="Of a mirror: what happens to what the source no longer has."
    )
    window: Text | None = Field(None, max_length=20, examples=["22:00-06:00"], description="Hours in UTC.")
    parallel_blobs: int | None = Field(None, ge=1, le=rules.MAX_PARALLEL)
    bytes_per_second: int | None = Field(None, ge=1)


class NewSyncRule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Text = Field(max_length=128, examples=["harbor-vision"])
    source: Text = Field(max_length=128, examples=["depot"])
    target: Text = Field(max_length=128, examples=["harbor"])
    project: Text = Field(max_length=128, examples=["vision"], description="By its name at the source.")
    terms: SyncTerms = Field(default_factory=lambda: SyncTerms.model_validate({}))
    schedule: Text | None = Field(None, max_length=100, examples=["0 3 * * *"], description="Cron, UTC.")
    on_admission: bool = Field(False, description="From the depot: publish to the target whatever is admitted.")
    on_event: bool = Field(False, description="A push at the source starts a run; its webhook has to tell us.")


class SyncRuleChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    enabled: bool


class SyncRule(BaseModel):
    """`owner`: our project whose maintainers may change it; null: only global admins."""

    name: str
    project: str
    owner: str | None
    source: str
    target: str
    terms: dict[str, Any]
    schedule: str | None
    next_run_at: datetime | None
    on_admission: bool
    on_event: bool
    enabled: bool
    created_by: str
    created_at: datetime


class SyncRulePage(BaseModel):
    items: list[SyncRule]
    next: str | None


class SyncRun(BaseModel):
    """`counts`: items by outcome, those that are left to do by action. A plan writes nothing but its items.

    An import from a registry is a run too, of no rule: `rule` then says which registry.
    """

    id: int
    rule: str
    kind: Literal["run", "plan", "import", "import-plan"]
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    cancel_requested: bool
    bytes_transferred: int
    counts: dict[str, int]
    error: str | None
    started_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class SyncRunPage(BaseModel):
    items: list[SyncRun]
    next: str | None


class SyncItem(BaseModel):
    id: int
    action: Literal["copy", "skip", "conflict", "prune", "import"]
    source_repository: str
    target_repository: str
    tag: str
    digest: str | None
    target_digest: str | None
    code: str
    reason: str
    state: str
    bytes: int
    blobs: int
    error: str | None
    notes: list[str]


class SyncItemPage(BaseModel):
    items: list[SyncItem]
    next: str | None


@router.get("/sync/rules", **operation("self.browse", "listSyncRules", "List the sync rules you may see"))
async def index(request: Request, limit: Limit = PAGE, after: After = None) -> SyncRulePage:
    async with acting(request) as call:
        rows = await queries.list_rules(call.conn, owners=readable(call), after=after, limit=limit)
        return SyncRulePage(items=[_shown(row) for row in rows], next=rows[-1].name if len(rows) == limit else None)


@router.post(
    "/sync/rules", status_code=201, **operation("self.browse", "addSyncRule", "Add a sync rule", conflict=True)
)
async def add(request: Request, body: NewSyncRule) -> SyncRule:
    async with acting(request) as call:
        owner = _owner(body)
        if owner is None or (body.terms.target_project or body.project) != body.project:
            call.require("registry.manage")
        project_id = None if owner is None else (await call.enter(owner, "project.configure")).id
        rules.check_name(body.name)
        check_project(body.project)
        for place in {body.source, body.target} - {DEPOT}:
            await registry_named(call.conn, place)
        terms = rules.normal_terms(body.terms.model_dump(exclude_unset=True), source=body.source, target=body.target)
        if body.on_admission and (body.source != DEPOT or body.target == DEPOT or body.terms.only_higher):
            raise InvalidInput(
                "What is admitted is published from the depot to another registry, every version of it.",
                hint="Use --source depot without --only-higher.",
            )
        if body.on_event and body.source == DEPOT:
            raise InvalidInput("The depot sends itself no events.", hint="Use --on-admission, or a schedule.")
        made = await queries.insert_rule(
            call.conn,
            {
                "name": body.name,
                "project": body.project,
                "project_id": project_id,
                "source": body.source,
                "target": body.target,
                "terms": terms,
                "schedule": body.schedule,
                "next_run_at": None if body.schedule is None else rules.next_time(body.schedule, call.now),
                "on_admission": body.on_admission,
                "on_event": body.on_event,
                "created_by": call.who,
            },
        )
        if not made:
            raise Conflict(f"There is a rule '{body.name}' already.", hint="Choose another name.")
        await _record(call, body.name, owner, {"added": True, **body.model_dump(exclude_unset=True)})
        return _shown(await rule_of(call, body.name, "model.read"))


@router.get(_RULE, **operation("self.browse", "showSyncRule", "Show a sync rule"))
async def show(request: Request, rule: str) -> SyncRule:
    async with acting(request) as call:
        return _shown(await rule_of(call, rule, "model.read"))


@router.patch(_RULE, **operation("self.browse", "changeSyncRule", "Switch a sync rule on or off", conflict=True))
async def change(request: Request, rule: str, body: SyncRuleChange) -> SyncRule:
    async with acting(request) as call:
        row = await rule_of(call, rule, "project.configure")
        due = rules.next_time(row.schedule, call.now) if body.enabled and row.schedule else None
        await queries.change_rule(call.conn, row.id, enabled=body.enabled, next_run_at=due)
        await _record(call, rule, row.owner, {"enabled": body.enabled})
        return _shown(await rule_of(call, rule, "model.read"))


@router.delete(_RULE, status_code=204, **operation("self.browse", "removeSyncRule", "Remove a sync rule"))
async def remove(request: Request, rule: str) -> Response:
    """What it copied stays where it is; its runs are forgotten."""
    async with acting(request) as call:
        row = await rule_of(call, rule, "project.configure")
        await queries.delete_rule(call.conn, row.id)
        await _record(call, rule, row.owner, {"removed": True})
    return Response(status_code=204)


@router.post(
    _RULE + "/plan",
    status_code=202,
    **operation("self.browse", "planSync", "Find out what a rule would do now, and how its places differ"),
)
async def plan(request: Request, rule: str) -> SyncRun:
    """The answer's run has the plan as its items once it has succeeded. Nothing is copied."""
    return await _start(request, rule, kind="plan")


@router.post(
    _RULE + "/runs", status_code=202, **operation("self.browse", "startSync", "Carry out a rule now", conflict=True)
)
async def start(request: Request, rule: str) -> SyncRun:
    """409 while another run of the rule is under way."""
    return await _start(request, rule, kind="run")


@router.get(_RULE + "/runs", **operation("self.browse", "listSyncRuns", "List the runs of a rule, newest first"))
async def history(request: Request, rule: str, limit: Limit = PAGE, after: After = None) -> SyncRunPage:
    async with acting(request) as call:
        row = await rule_of(call, rule, "model.read")
        found = await queries.list_runs(call.conn, row.id, before=after_id(after), limit=limit)
        return SyncRunPage(
            items=[run_shown(run) for run in found], next=str(found[-1].id) if len(found) == limit else None
        )


@router.get(_RUN, **operation("self.browse", "showSyncRun", "Show a run or a plan"))
async def show_run(request: Request, run_id: str) -> SyncRun:
    async with acting(request) as call:
        return run_shown(await _run(call, run_id, "model.read"))


@router.get(_RUN + "/items", **operation("self.browse", "listSyncItems", "List what a run or a plan consists of"))
async def items(
    request: Request,
    run_id: str,
    drift: Annotated[bool, Query(description="Only where source and target differ.")] = False,
    limit: Limit = PAGE,
    after: After = None,
) -> SyncItemPage:
    async with acting(request) as call:
        run = await _run(call, run_id, "model.read")
        rows = await queries.items_of(call.conn, run.id, after=after_id(after) or 0, limit=limit, drift=drift)
        return SyncItemPage(
            items=[_item_shown(row) for row in rows], next=str(rows[-1].id) if len(rows) == limit else None
        )


@router.post(_RUN + "/cancel", **operation("self.browse", "cancelSyncRun", "Stop a run", conflict=True))
async def cancel(request: Request, run_id: str) -> SyncRun:
    """What has arrived at the target stays there. A run that has ended stays as it is."""
    async with acting(request) as call:
        run = await _run(call, run_id, "project.configure")
        if run.state in ("queued", "running"):
            await queries.request_cancel(call.conn, run.id)
            await _record(call, run.rule, run.owner, {"run": run.id, "cancelled": True})
        return run_shown(await _run(call, run_id, "model.read"))


async def _start(request: Request, name: str, *, kind: str) -> SyncRun:
    async with acting(request) as call:
        row = await rule_of(call, name, "project.configure")
        run_id = await runs.start(call.conn, row, kind=kind, by=call.who)
        await _record(call, name, row.owner, {"run": run_id, "kind": kind})
        return run_shown(await _run(call, str(run_id), "model.read"))


def _owner(body: NewSyncRule) -> str | None:
    """The project of this service that a rule takes from or brings to."""
    if body.target == DEPOT:
        return body.terms.target_project or body.project
    return body.project if body.source == DEPOT else None


async def rule_of(call: Call, name: str, action: str) -> Rule:
    """The rule, if the caller may do that; a rule they may not know of is as good as none."""
    row = await queries.rule_by_name(call.conn, name)
    if row is not None:
        await _admit(call, row.owner, action)
    if row is None or not _visible(call, row.owner):
        raise NotFound(f"There is no rule '{name[:128]}'.", hint="berth sync rule ls shows those you may see.")
    return row


async def _run(call: Call, text: str, action: str) -> Run:
    number = after_id(text) if text.isascii() and text.isdigit() else None
    row = None if number is None else await queries.run_by_id(call.conn, number)
    if row is not None:
        await _admit(call, row.owner, action)
    if row is None or not _visible(call, row.owner):
        raise NotFound(f"There is no run '{text[:20]}'.", hint="berth sync status RULE lists the runs of a rule.")
    return row


def readable(call: Call) -> list[str] | None:
    """The projects whose models the caller may know of; None: all."""
    if decide(call.actor, "model.read", None).allowed:
        return None
    held = [call.actor.token_project] if call.actor.scoped else list(call.actor.roles)
    return [name for name in held if name is not None and decide(call.actor, "model.read", name).allowed]


def _visible(call: Call, owner: str | None) -> bool:
    if owner is None:
        return decide(call.actor, "registry.manage", None).allowed
    return decide(call.actor, "model.read", owner).allowed


async def _admit(call: Call, owner: str | None, action: str) -> None:
    if owner is None and _visible(call, owner):
        call.require("registry.manage")
    elif owner is not None and _visible(call, owner):
        await call.enter(owner, action)


async def _record(call: Call, name: str, owner: str | None, detail: Mapping[str, Any]) -> None:
    await audit.record(
        call.conn,
        actor=call.actor,
        action="project.configure",
        project=owner,
        object=f"sync rule {name}",
        detail=detail,
    )


def _shown(row: Rule) -> SyncRule:
    fields = asdict(row)
    return SyncRule(**{name: fields[name] for name in SyncRule.model_fields})


def run_shown(row: Run) -> SyncRun:
    """A run as the API shows it."""
    fields = asdict(row)
    return SyncRun(**{name: fields[name] for name in SyncRun.model_fields})


def _item_shown(row: ItemRow) -> SyncItem:
    return SyncItem(**asdict(row))
