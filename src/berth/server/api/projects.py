"""/projects: the tenants. Who may see one sees it here; its policy is what its versions must pass."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from berth.access import audit, queries
from berth.access import projects as access_projects
from berth.access.decide import Actor, decide, role_in
from berth.access.queries import ProjectRow
from berth.errors import InvalidInput
from berth.gates import policies
from berth.gates import verdicts as gates
from berth.server.api.calls import acting
from berth.server.api.operations import PAGE, After, Limit, Text, operation, resource, storable
from berth.sync.rules import MAX_PARALLEL

router = resource("projects")

PolicyDocument = Annotated[dict[str, Any], AfterValidator(storable)]


class Publishing(BaseModel):
    """How much the way to a project's home may take."""

    model_config = ConfigDict(extra="forbid")

    bytes_per_second: int | None = Field(None, ge=1, description="At most; left out: as fast as it goes.")
    parallel_blobs: int | None = Field(None, ge=1, le=MAX_PARALLEL, description="Blobs that move at once.")


class Project(BaseModel):
    """A tenant. `role` is the caller's own role in it, `policy_preset` the preset its policy starts from."""

    name: str
    description: str
    policy: dict[str, Any]
    policy_preset: str
    home: str
    publishing: Publishing
    role: str | None
    created_at: datetime


class ProjectPage(BaseModel):
    items: list[Project]
    next: str | None


class NewProject(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Text = Field(max_length=200, examples=["vision"])
    policy: Text | PolicyDocument = Field(
        policies.DEFAULT_PRESET, description="A preset (open, scanned, strict) or a whole policy.", examples=["strict"]
    )
    description: Text = Field("", max_length=4000)


class ProjectChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    policy: Text | PolicyDocument | None = Field(None, description="A preset or a whole policy.")
    description: Text | None = Field(None, max_length=4000)
    home: Text | None = Field(None, max_length=128, description="Registry that published versions are copied to.")
    publishing: Publishing | None = Field(None, description="Limits of the copy to the home; replaces the old ones.")


@router.post(
    "/projects", status_code=201, **operation("project.create", "createProject", "Create a project", conflict=True)
)
async def create(request: Request, body: NewProject) -> Project:
    async with acting(request) as call:
        policy = _policy(body.policy)
        row = await access_projects.create_project(
            call.conn,
            call.actor,
            name=body.name,
            policy=policies.to_json(policy),
            policy_hash=policies.policy_hash(policy),
            trust_hash=policies.trust_hash(()),
            description=body.description,
        )
        return _shown(row, call.actor)


@router.get("/projects", **operation("self.browse", "listProjects", "List the projects you may see"))
async def index(request: Request, limit: Limit = PAGE, after: After = None) -> ProjectPage:
    async with acting(request) as call:
        names: list[str] | None = None
        if not decide(call.actor, "project.read", None).allowed:
            held = [call.actor.token_project] if call.actor.scoped else list(call.actor.roles)
            names = [name for name in held if name is not None and decide(call.actor, "project.read", name).allowed]
        rows = await queries.list_projects(call.conn, names=names, after=after, limit=limit)
        return ProjectPage(
            items=[_shown(row, call.actor) for row in rows], next=rows[-1].name if len(rows) == limit else None
        )


@router.get("/projects/{project}", **operation("project.read", "getProject", "Show a project"))
async def show(request: Request, project: str) -> Project:
    async with acting(request) as call:
        return _shown(call.project, call.actor)


@router.patch(
    "/projects/{project}",
    **operation("project.configure", "changeProject", "Change policy, description or home", conflict=True),
)
async def change(request: Request, project: str, body: ProjectChange) -> Project:
    """A new policy counts at once: every verdict of the project is decided again when next asked for."""
    async with acting(request) as call:
        if body.policy is not None:
            wanted = policies.to_json(_policy(body.policy))
            stored = await gates.set_policy(call.conn, call.project.id, wanted, now=call.now)
            await audit.record(
                call.conn,
                actor=call.actor,
                action="project.configure",
                project=project,
                object=project,
                detail={"policy": stored, "before": dict(call.project.policy)},
            )
        registries = call.services.registries
        await access_projects.update_project(
            call.conn,
            call.actor,
            call.project,
            description=body.description,
            home=body.home,
            kinds=() if body.home is None or registries is None else registries.kinds(),
            publishing=None if body.publishing is None else body.publishing.model_dump(exclude_none=True),
        )
        row = await queries.project_by_name(call.conn, project) or call.project
        await access_projects.check_places(call.conn, row)
        return _shown(row, call.actor)


@router.delete(
    "/projects/{project}",
    status_code=204,
    **operation("project.delete", "deleteProject", "Remove an empty project", conflict=True),
)
async def remove(request: Request, project: str) -> Response:
    async with acting(request) as call:
        await access_projects.delete_project(call.conn, call.actor, call.project)
    return Response(status_code=204)


def _policy(value: str | dict[str, Any]) -> policies.Policy:
    document = {"preset": value} if isinstance(value, str) else value
    if isinstance(value, str) and not value:
        raise InvalidInput("A policy has a name.", hint=f"Choose one of: {', '.join(policies.PRESETS)}.")
    return policies.from_json(document)


def _shown(row: ProjectRow, actor: Actor) -> Project:
    return Project(
        name=row.name,
        description=row.description,
        policy=dict(row.policy),
        policy_preset=str(row.policy.get("preset", policies.DEFAULT_PRESET)),
        home=row.home,
        publishing=Publishing(**row.publishing),
        role=role_in(actor, row.name),
        created_at=row.created_at,
    )
